"""The proof of a data set on a real Ray: an honest run holds, and each kind of lie is named."""

import errno
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from caco_ray.config import SandboxConfig, validate
from caco_ray.errors import ConfigError, RunDirError, StorageError
from caco_ray.ledger import reexecute
from caco_ray.ledger import verify as verify_module
from caco_ray.ledger.audit import hash_of
from caco_ray.ledger.lineage import read_config
from caco_ray.ledger.shipped import SLICE_ROWS, survey
from caco_ray.ledger.verify import Verification, VerifyConfig, _state, verify
from caco_ray.schema import Row, row_id, to_table
from caco_ray.store import Dataset, Folder
from caco_ray.store.disk import Disk

pytestmark = pytest.mark.usefixtures("ray_cluster")
CONFIG, QUIET = VerifyConfig(dataset="/nowhere"), Console(file=io.StringIO())
UNSAFE = SandboxConfig(require="L0", allow_unsafe=True)


def check(dataset: Path, **arguments: object) -> Verification:
    return verify(VerifyConfig(dataset=str(dataset), sandbox=UNSAFE, **arguments), Console(file=io.StringIO()))  # type: ignore[arg-type]


def audit(run: Path) -> str:
    """All faults of a run, without running programs."""
    result = check(run / "dataset", fraction=0)
    assert result.totals is None and result.holds == (not result.faults)
    return "\n".join(result.faults)


def shipped_rows(run: Path) -> int:
    return Dataset(Folder(str(run / "dataset"))).totals.kept


def test_an_honest_run_holds(run: Path) -> None:
    result = check(run / "dataset")
    assert result.holds and result.faults == result.unchecked == result.mismatches == ()
    assert result.totals is not None and result.totals.kept == shipped_rows(run) > 10
    assert "8 data sets" in result.checked[0] and "tokens" in result.checked[1]


def change(column: str, value: object) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [{**rows[0], column: value}, *rows[1:]]


LIES = {
    "a row is lost": ("select", lambda rows: rows[1:], "select shard 0: conservation: "),
    "a row is there twice": ("scale", lambda rows: [*rows[:-1], rows[0]], "scale shard 0: conservation: a row_id appears twice"),
    "a rejected row is taken as kept": ("scale", lambda rows: [{**row, "reject_reason": None} for row in rows], "but the manifest says"),
    "a row comes from nowhere": ("solve", change("row_id", "0" * 32), f"solve shard 0: lineage: rows without parent: {'0' * 32}"),
    "a row has another parent": ("solve", change("parent_id", "0" * 32), "solve shard 0: lineage: parent_id is not that of the parent"),
    "a program is exchanged": ("reverse", change("code", "print(1)"), "reverse shard 0: lineage: code is not that of the parent"),
    "a seed number is changed": ("judge", change("sample_seed", 1), "judge shard 0: lineage: sample_seed is not that of the parent"),
    "an answer is exchanged": ("assemble", change("answer", "17"), "assemble shard 0: lineage: answer is not that of the parent"),
    "tokens are hidden": ("solve", change("solve_tokens", 0), "solve shard 0: conservation: the rows' solve_tokens add up to"),
    "a seed has another id": ("seeds", change("row_id", "f" * 32), f"seeds shard 0: lineage: {'f' * 32}: not the ids of their sources"),
    "a duplicate is of nothing": ("select", change("duplicate_of", "e" * 32), f"select: lineage: names the row {'e' * 32}, which does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("stage,lie,fault", LIES.values(), ids=LIES.keys())
def test_each_lie_is_named(run: Path, tamper, stage: str, lie: Callable[[list[Row]], list[Row]], fault: str) -> None:
    tamper(run, stage, lie)
    assert fault in audit(run)


def test_an_id_that_two_shards_share_is_named(run: Path, tamper) -> None:
    folder = Folder(str(run / "code_cot"))
    other = next(Dataset(Folder(str(run / "programs"))).rows())["row_id"]
    tamper(run, "unify", change("row_id", other))
    assert f"scale and unify: ids: row_id {other} appears 2 times" in audit(run) and Dataset(folder).entries


def test_damaged_and_missing_files_are_named_and_the_rest_is_checked(run: Path, tamper) -> None:
    first, second = (run / "problems" / entry.file for entry in Dataset(Folder(str(run / "problems"))).entries[:2])
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    second.unlink()
    tamper(run, "seeds", change("row_id", "f" * 32))
    found = audit(run)
    assert "reverse shard 0: file: " in found and "damaged" in found
    assert "reverse shard 1: file: " in found and "missing" in found
    assert "seeds shard 0: lineage" in found


def test_json_lines_beside_the_parquet_are_compared_with_it(run: Path) -> None:
    file = run / "dataset" / "jsonl" / "part-000001.jsonl"
    file.write_text(file.read_text().replace('"answer": "', '"answer": "1', 1))
    assert "assemble shard 1: file: " in audit(run) and "not the rows of the Parquet file" in audit(run)
    file.unlink()
    assert "assemble shard 1: file: " in audit(run) and "part-000001.jsonl: missing" in audit(run)


def test_a_file_that_a_loader_would_take_for_rows_is_a_fault(run: Path) -> None:
    (run / "dataset" / "extra.parquet").write_bytes(b"rows?")
    (run / "dataset" / "data" / "part-000000-0123456789ab.parquet").write_bytes(b"left by a killed commit")
    found = audit(run)
    assert "extra.parquet: no file of this data set" in found and "part-000000-0123456789ab.parquet: no file of this data set" in found


@pytest.mark.parametrize("damage", ["gone", "open"])
def test_a_stage_that_is_gone_or_not_complete_is_a_fault(run: Path, damage: str) -> None:
    shutil.rmtree(run / "problems") if damage == "gone" else (run / "problems" / "_SUCCESS").unlink()
    assert "reverse: file: not there, or not complete" in audit(run)


def test_nothing_proved_is_said(run: Path) -> None:
    result = check(run / "dataset", fraction=1e-9)
    assert not result.holds and "draws none of" in result.faults[0]
    for file in (run / "dataset" / "data").glob("*.parquet"):
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    (run / "dataset" / "_SUCCESS").unlink()
    result = check(run / "dataset", fraction=0)
    assert not result.holds and "no rows" in "\n".join(result.faults)


def test_a_run_that_cannot_be_written_asks_for_another_place(tmp_path: Path, monkeypatch) -> None:
    def read_only(self: Disk, path: str, data: bytes) -> bool:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(Disk, "create", read_only)
    with pytest.raises(StorageError, match="state=/a/folder"), _state(CONFIG, Folder(str(tmp_path)), QUIET):
        pass


def test_two_verifications_do_not_share_a_state(tmp_path: Path) -> None:
    at, refused = Folder(str(tmp_path)), pytest.raises(RunDirError, match="another driver is at work")
    with _state(CONFIG, at, QUIET), refused, _state(CONFIG, at, QUIET):
        pass


def test_a_copied_folder_is_checked_as_far_as_that_goes(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in (run / "dataset" / "data").glob("*.parquet"):
        shutil.copy(file, alone)
    result = check(alone)
    assert result.holds and result.totals is not None and result.totals.kept == shipped_rows(run)
    said = "\n".join(result.unchecked)
    assert "no manifest" in said and "no run beside the data set" in said and "state=" in said


def test_a_copy_with_its_manifest_has_its_hashes_checked(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "dataset", tmp_path / "alone")
    honest = check(tmp_path / "alone", fraction=0)
    assert honest.holds and "no run beside the data set" in "\n".join(honest.unchecked) and "no manifest" not in "\n".join(honest.unchecked)
    file = tmp_path / "alone" / Dataset(Folder(str(tmp_path / "alone"))).entries[0].file
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "assemble shard 0: file: " in check(tmp_path / "alone", fraction=0).faults[0]


def test_a_run_elsewhere_can_be_named(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "dataset", tmp_path / "alone")
    result = check(tmp_path / "alone", run=str(run), fraction=0)
    assert result.holds and result.unchecked == ("the output of the rows that fraction=0 left out",)


def test_rows_that_were_changed_by_hand_are_mismatches(run: Path, tmp_path: Path) -> None:
    table = pa.concat_tables(pq.read_table(file) for file in sorted((run / "dataset" / "data").glob("*.parquet")))
    rows = table.to_pylist()
    lies = {
        0: ({"answer": "123456"}, "answer_differs"),
        1: ({"output_json": "123456"}, "output_differs"),
        2: ({"input_json": "{}"}, "input_differs"),
        3: ({"output": "No idea."}, "no_final_answer"),
        4: ({"code": "raise SystemExit(3)"}, "does_not_run"),
        5: ({"code": None}, "no_code"),
    }
    for place, (lie, _) in lies.items():
        rows[place] |= lie
    rows.append(rows[9])
    (tmp_path / "lies").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "lies" / "all.parquet")
    result = check(tmp_path / "lies")
    assert not result.holds
    assert {mismatch.row_id: mismatch.reason for mismatch in result.mismatches} == {
        rows[place]["row_id"]: reason for place, (_, reason) in lies.items()
    }
    assert result.faults == (f"{tmp_path}/lies/all.parquet: ids: row_id {rows[9]['row_id']} appears 2 times",)


def test_a_fraction_is_the_same_rows_each_time_and_another_seed_draws_others(finished_run: Path) -> None:
    dataset = str(finished_run / "dataset")
    slices = survey(dataset).slices

    def drawn(fraction: float, seed: int) -> set[str]:
        source = reexecute.ShippedRows(dataset, slices, fraction, seed)
        return {row["parent_id"] for shard in range(source.shards) for row in source.read(shard).table.to_pylist()}

    everything, half = drawn(1, 0), drawn(0.5, 0)
    assert len(everything) == shipped_rows(finished_run) and half < everything
    assert drawn(0.5, 0) == half != drawn(0.5, 1) and drawn(0.25, 0) < half


def test_a_program_may_use_its_whole_cpu_limit_when_it_is_verified(finished_run: Path, tmp_path: Path) -> None:
    """The run kept only what used less; on a slower machine the same program uses more."""
    dataset = str(finished_run / "dataset")
    found = survey(dataset)
    source, sandbox = reexecute.ShippedRows(dataset, found.slices, 1, 0), SandboxConfig(require="L0", allow_unsafe=True, cpu_s=1)
    near = 'import resource\ninput = {"a": 2}\nwhile sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) < 0.88: pass\noutput = 4'
    execute = reexecute.open_stage(Folder(str(tmp_path)), source, found.digest, sandbox).operators[0].make()
    (row,) = execute(to_table([{"row_id": "r", "parent_id": "p", "code": near}], reexecute.VERIFIED)).to_pylist()
    execute.close()  # type: ignore[attr-defined]
    assert (row["exec_status"], row["reject_reason"], row["infra_error"]) == ("ok", None, None) and row["cpu_s"] > 1.6


def test_one_large_file_is_cut_in_slices(finished_run: Path, tmp_path: Path) -> None:
    table = pa.concat_tables(pq.read_table(file) for file in sorted((finished_run / "dataset" / "data").glob("*.parquet")))
    large = pa.concat_tables([table] * (3 * SLICE_ROWS // table.num_rows))
    pq.write_table(large, tmp_path / "large.parquet", row_group_size=2 * SLICE_ROWS)
    slices = survey(str(tmp_path)).slices
    assert max(part.rows for part in slices) == SLICE_ROWS and sum(part.rows for part in slices) == large.num_rows
    source = reexecute.ShippedRows(str(tmp_path), slices, 1, 0)
    again = [row["parent_id"] for shard in range(source.shards) for row in source.read(shard).table.to_pylist()]
    assert again == large["row_id"].to_pylist()


def test_a_killed_verification_goes_on_and_a_finished_one_begins_anew(finished_run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("caco_ray.store.writer.COLLECT_EVERY", 1)  # as a large one does
    dataset = str(finished_run / "dataset")
    found = survey(dataset)
    source = reexecute.ShippedRows(dataset, found.slices, 1, 0)

    def stage() -> reexecute.Stage:
        return reexecute.open_stage(Folder(str(tmp_path)), source, found.digest, UNSAFE)

    def manifests() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in tmp_path.glob("*/manifest/*.json")}

    seen: list[int] = []

    def stop_at_first(entry: reexecute.ShardEntry) -> None:
        seen.append(entry.shard)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reexecute.run(stage(), stop_at_first)
    before = manifests()
    assert before and not list(tmp_path.glob("*/_SUCCESS"))
    assert reexecute.run(stage(), lambda entry: None).totals.kept == shipped_rows(finished_run)
    after = manifests()
    assert {name: after[name] for name in before} == before and len(after) == len(found.slices)
    reexecute.run(stage(), lambda entry: None)
    files = {name: json.loads(body)["file"] for name, body in manifests().items()}
    assert all(files[name] != json.loads(body)["file"] for name, body in after.items())


def test_what_cannot_be_verified_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no Parquet files there"):
        check(tmp_path)
    pq.write_table(pa.table({"question": ["q"]}), tmp_path / "other.parquet")
    with pytest.raises(RunDirError, match="not a shipped data set"):
        check(tmp_path)
    with pytest.raises(ConfigError, match="fraction"):
        validate(VerifyConfig, {"dataset": "/x", "fraction": 2})
    with pytest.raises(RunDirError, match="not a run"):
        check(tmp_path, run=str(tmp_path / "nowhere"))


def test_a_file_that_is_not_parquet_is_a_fault(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(run / "dataset" / "data", alone)
    (alone / "junk.parquet").write_bytes(b"junk")
    result = check(alone, fraction=0.5)
    assert not result.holds and "junk.parquet: file: not a Parquet file" in result.faults[0]
    assert result.totals is not None and 0 < result.totals.kept < shipped_rows(run)


def test_rows_of_two_models_in_one_stage_are_a_fault(run: Path) -> None:
    file = run / "programs" / "_SUCCESS"
    body = json.loads(file.read_text())
    body["entries"][1]["model"] = "another@1"
    file.write_text(json.dumps(body))
    assert "scale: model: " in audit(run) and "shard 1 were made by the model another@1, those of other shards by fake" in audit(run)


def test_keys_of_the_sandbox_that_are_not_given_are_those_of_the_run(finished_run: Path) -> None:
    made_by = read_config(Folder(str(finished_run)))
    made_by = made_by.model_copy(update={"sandbox": made_by.sandbox.model_copy(update={"cpu_s": 17.0, "workers": 3})})
    given = validate(VerifyConfig, {"dataset": "/x", "sandbox": {"memory_mb": 256}})
    found = verify_module._sandbox(given, made_by)
    assert (found.cpu_s, found.workers, found.memory_mb) == (17, 3, 256)
    assert verify_module._sandbox(validate(VerifyConfig, {"dataset": "/x"}), made_by) == made_by.sandbox


def test_a_damaged_file_of_the_run_is_named_before_anything_is_executed(run: Path) -> None:
    (run / "held").mkdir(exist_ok=True)
    (run / "held" / "scale-1.json").write_text('{"label": ')
    with pytest.raises(RunDirError, match=r"held/scale-1.json: not readable"):
        check(run / "dataset")
    (run / "held" / "scale-1.json").unlink()
    (run / "config.json").write_text("{")
    with pytest.raises(RunDirError, match=r"config.json: not readable"):
        check(run / "dataset")


def test_ids_are_spread_evenly_over_the_buckets_of_the_audit() -> None:
    for buckets in (16, 64, 250):
        sizes = Counter(hash_of(row_id("p", "s", number)) % buckets for number in range(200 * buckets))
        assert len(sizes) == buckets and max(sizes.values()) < 1.5 * 200
