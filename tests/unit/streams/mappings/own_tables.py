"""A table of prescribers as a company may have it, with columns of its own names."""

import numpy as np
import pandas as pd

N = 400
SPECIALTIES = ("Cardiology", "Internal Medicine", "Dermatology", "Nurse Practitioner")
STATES = ("NY", "CA", "TX", "PR", "oh")


def npi(number: int) -> str:
    """A National Provider Identifier with its check digit, by the Luhn formula of the standard (prefix 80840)."""
    base = f"1{number:08d}"
    total = 24  # of the prefix
    for place, digit in enumerate(reversed(base)):
        doubled = int(digit) * 2 if place % 2 == 0 else int(digit)
        total += doubled // 10 + doubled % 10
    return base + str(-total % 10)


def own_table(n: int = N) -> pd.DataFrame:
    """Prescribers with a change of their prescriptions."""
    rng = np.random.default_rng(3)
    rows = np.arange(n)
    return pd.DataFrame(
        {
            "NPI": [npi(row * 7919) for row in rows],
            "Spec Desc": [SPECIALTIES[row % 4] for row in rows],
            "ST": [STATES[row % 5] for row in rows],
            "Tot Rx": rng.permutation(n) + 11,
            "Rx $": [f"${1000 + row:,}.50" for row in rows],
            "Pts": rng.integers(11, 900, n),
            "Grad Yr": rng.integers(1965, 2015, n),
            "Rx Chg": rng.normal(0, 0.2, n).clip(-0.9, 2).round(4),
        }
    )
