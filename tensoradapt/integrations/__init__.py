"""Files of other libraries: read and written without importing those libraries.

``integrations.peft`` reads and writes adapter folders of PEFT, ``integrations.lycoris`` reads
single files of LyCORIS and kohya, ``integrations.exporting`` turns any update into a LoRA.
``tensoradapt.nn.load`` finds both readers through the entry points ``tensoradapt.readers``.
"""
