"""Tables of studies whose answer is known, and what the claims make of them."""

from alltrades.studies.claims import judge


def differences(key, half=0.02, name="differences", **pairs):
    """One row per (value of the setting, difference) of every pair, with an interval of +-half;
    "a__b" for "a - b".
    """
    rows = [
        [
            x,
            pair.replace("__", " - "),
            d,
            d - half,
            d + half,
            "BETTER"
            if d > half
            else "WORSE"
            if d < -half
            else "SAME"
            if abs(d) + half <= 0.05
            else "UNDERPOWERED",
            d,
        ]
        for pair, values in pairs.items()
        for x, d in values.items()
    ]
    return {
        name: {
            "columns": [key, "a - b", "difference", "low", "high", "verdict", "seed 0"],
            "rows": rows,
        }
    }


def success(key, half=0.02, name="success", **rows):
    return {
        name: {
            "columns": [key, "row", "success", "low", "high"],
            "rows": [
                [x, row, v, v - half, v + half]
                for row, values in rows.items()
                for x, v in values.items()
            ],
        }
    }


def beside(tables, **values):
    """The tables with further columns of equal values."""
    return {
        name: {
            "columns": [*(k.replace("__", ".") for k in values), *t["columns"]],
            "rows": [[*values.values(), *r] for r in t["rows"]],
        }
        for name, t in tables.items()
    }


def verdicts(name, tables, **facts):
    claims = judge(name, {"tables": tables, **facts})
    assert len({claim.text for claim in claims}) == len(claims)
    return {claim.text: claim.verdict for claim in claims}
