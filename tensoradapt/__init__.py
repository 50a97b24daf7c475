"""tensoradapt: every fine-tuning update as one formula."""
