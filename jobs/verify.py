"""Prove a data set again: python jobs/verify.py dataset=/abs/path/dataset [run=...] [fraction=0.1] [state=...] [sandbox.require=L2]

Exit code 1 if anything does not hold; each fault and each mismatch is a line.
"""

from caco_ray.cli import guarded, parse_arguments


def main() -> int:
    from caco_ray.ledger.verify import VerifyConfig, verify
    from caco_ray.progress import make_console

    result = verify(parse_arguments(VerifyConfig), make_console())
    lines = {"checked": result.checked, "not checked": result.unchecked, "FAULT": result.faults}
    for title, texts in lines.items():
        for text in texts:
            print(f"{title}: {text}")
    for mismatch in result.mismatches:
        print(f"{'UNCHECKED' if mismatch.infra else 'MISMATCH'}: row {mismatch.row_id}: {mismatch.reason}")
    if result.unnamed:
        print(f"... and {result.unnamed:,} more")
    kinds = "".join(f", {count} {kind}" for kind, count in result.reasons.most_common())
    rows = result.totals
    counts = (
        f"rows {rows.rows}  proved {rows.kept}  mismatches {result.reasons.total()}{kinds}  unchecked {rows.quarantined}  " if rows else ""
    )
    print(f"{counts}faults {len(result.faults)}")
    return 0 if result.holds else 1


if __name__ == "__main__":
    guarded(main)
