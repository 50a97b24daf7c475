"""Records of what was certified: frozen data, printable, to JSON and back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import ParseError

FORMAT = "tensoradapt-rank-certificate"
MAX_CHARACTERS = 2**24
RESERVATIONS = ("", " for generic constants", " for free scales", " on an open set")
STATUSES = tuple(word + more for word in ("proved", "bounded") for more in RESERVATIONS)
KINDS = ("residues", "balls")


@dataclass(frozen=True, slots=True)
class Witness:
    """Where a minor is not 0.

    Parameters
    ----------
    kind : {"residues", "balls"}
        Residues modulo a prime, or real numbers enclosed by balls.
    prime : int
        The modulus; 0 for balls.
    seed : int
        What the point is drawn from, together with the prime and the leaves' names.
    rows, columns : tuple of int
        The minor, in ascending order.
    """

    kind: str
    prime: int
    seed: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RankCertificate:
    """What is known of a generic rank: ``lower ≤ generic rank ≤ upper``.

    Parameters
    ----------
    digest : str
        Which expression, by its digest.
    shape : tuple of int
        Its shape.
    upper, lower : int
        The bounds.
    status : str
        ``"proved"`` where the bounds meet, ``"bounded"`` where they do not; both hold for almost
        all values of what the assumptions call generic. With a reservation where something else is
        generic too: ``" for generic constants"``, that are other numbers in the expression;
        ``" for free scales"``, that are norms in it; ``" on an open set"``, around a point, where a
        piecewise function may have other ranks elsewhere.
    witness : Witness
        The minor that shows ``lower``.
    trials : int
        How many points were tried.
    failure_probability : float or None
        How likely the generic rank is more than ``lower``; 0 where it is proved, None where no
        bound is known.
    assumptions : tuple of str
        What stands for what.
    upper_because : str
        The rules of the upper bound.
    frozen : str
        ``"generic"`` or ``"values"``, as asked for.
    base : str or None
        A digest of the W0 that was given.
    """

    digest: str
    shape: tuple[int, ...]
    upper: int
    lower: int
    status: str
    witness: Witness
    trials: int
    failure_probability: float | None
    assumptions: tuple[str, ...]
    upper_because: str
    frozen: str = "generic"
    base: str | None = None

    @property
    def proved(self) -> bool:
        """Whether the generic rank is proved, with nothing generic in place of a constant."""
        return self.status == "proved"

    @property
    def generic_rank(self) -> int:
        """The generic rank where it is proved, else the most likely value, ``lower``."""
        return self.lower

    @property
    def why(self) -> str:
        """The proof, rule by rule."""
        k, witness = self.lower, self.witness
        where = f"modulo {witness.prime}" if witness.kind == "residues" else "in ball arithmetic"
        point = f"the point of seed {witness.seed}"
        lines = [
            f"≥ {k}  a {k} × {k} minor is not 0 {where} at {point}",
            self.upper_because,
        ]
        return "\n".join((*lines, *(f"given that {text}" for text in self.assumptions)))

    def __str__(self) -> str:
        if self.lower == self.upper:
            return f"generic rank {self.lower} ({self.status})\n{self.why}"
        chance = self.failure_probability
        likely = "" if chance is None else f"; above {self.lower} with probability ≤ {chance:.1e}"
        return f"generic rank {self.lower} to {self.upper}{likely}\n{self.why}"

    def to_json(self, indent: int | None = None) -> str:
        """Write the certificate as JSON."""
        return json.dumps({"format": FORMAT, "version": 1, **asdict(self)}, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> RankCertificate:
        """Read what ``to_json`` wrote.

        Raises
        ------
        ParseError
            If it is no certificate. Whether it is *true* is for ``verify_certificate`` to say.
        """
        return _read(text)


def _read(text: str) -> RankCertificate:
    try:
        data: Any = json.loads(text) if len(text) <= MAX_CHARACTERS else None
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise ValueError("it is not marked as a certificate")
        if data.pop("version", None) != 1:
            raise ValueError("its version is not 1")
        given = _checked(data, _CERTIFICATE)
        given["witness"] = Witness(**_checked(given["witness"], _WITNESS))
        if given["status"] not in STATUSES or given["witness"].kind not in KINDS:
            raise ValueError("its status or kind is unknown")
        return RankCertificate(**given)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ParseError(
            "A rank certificate was to be read from JSON.",
            f"The text is none: {error}.",
            "Give what certificate.to_json() wrote.",
        ) from None


def _checked(data: Any, wanted: dict[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """The fields of a record, with lists as tuples."""
    if not isinstance(data, dict) or set(data) != set(wanted):
        raise ValueError(f"its fields are not {', '.join(sorted(wanted))}")
    made: dict[str, Any] = {}
    for name, value in data.items():
        kinds = wanted[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"its field {name} is a {type(value).__name__}")
        if isinstance(value, list):
            item = str if name == "assumptions" else int
            if not all(type(x) is item for x in value):
                raise ValueError(f"its field {name} has an entry of another type")
            value = tuple(value)
        made[name] = value
    return made


_WITNESS: dict[str, type | tuple[type, ...]] = {
    "kind": str,
    "prime": int,
    "seed": int,
    "rows": list,
    "columns": list,
}
_CERTIFICATE: dict[str, type | tuple[type, ...]] = {
    "digest": str,
    "shape": list,
    "upper": int,
    "lower": int,
    "status": str,
    "witness": dict,
    "trials": int,
    "failure_probability": (float, int, type(None)),
    "assumptions": list,
    "upper_because": str,
    "frozen": str,
    "base": (str, type(None)),
}
assert set(_CERTIFICATE) == {field.name for field in fields(RankCertificate)}
