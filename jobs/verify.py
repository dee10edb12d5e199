"""Re-execute every shipped row: python jobs/verify.py dataset=/abs/path/dataset [limit=N] [sandbox.require=L2]; exit 1 on any mismatch."""

from caco_ray.cli import guarded, parse_arguments


def main() -> int:
    from caco_ray.verify import VerifyConfig, verify

    findings = verify(parse_arguments(VerifyConfig))
    for example in findings.examples:
        print(f"  {example}")
    kinds = "".join(f", {count} {kind}" for kind, count in findings.mismatches.most_common())
    mismatches = findings.mismatches.total()
    print(f"rows {findings.rows}  proved {findings.proved}  mismatches {mismatches}{kinds}  unchecked {findings.unchecked}")
    return 0 if findings.rows and findings.proved == findings.rows else 1


if __name__ == "__main__":
    guarded(main)
