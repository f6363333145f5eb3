"""The command line, as a user calls it."""

import json
import subprocess
import sys

import pytest

from comet_jax import cases
from comet_jax.cli import main


def run_json(capsys, *args: str) -> dict:
    main([*args, "--json"])
    return json.loads(capsys.readouterr().out)


LARGE = {"gpt2", "opt125m"}


@pytest.mark.parametrize("case", sorted(cases.CASES.keys() - LARGE))
def test_explain_counts_every_case_without_running_it(case, capsys):
    found = run_json(capsys, "explain", case, *(("--tokens", "4") if case not in ("relu", "gelu", "silu") else ()))
    assert found["case"] == case
    assert found["rounds"] > 0
    online = sum(row["online_bytes"] * row["times"] for row in found["operations"])
    # Rows count bits; messages end on a word, for each of at most six sizes of a round.
    assert online <= found["online_bytes"] <= online + 24 * found["rounds"]


@pytest.mark.parametrize(
    ("case", "tokens", "online", "offline", "rounds"),
    [("gpt2", 128, 0.12e9, 1.5e9, 400), ("opt125m", 16, 10.5e6, 60e6, 400), ("layer", 64, 4e6, 30e6, 36)],
)
def test_whole_models_stay_within_their_budget(case, tokens, online, offline, rounds, capsys):
    found = run_json(capsys, "explain", case, "--tokens", str(tokens))
    assert found["online_bytes"] <= online
    assert found["offline_bytes"] <= offline
    assert found["rounds"] <= rounds


def test_explain_counts_what_a_shuffle_sends(capsys):
    gate = ("--tokens", "1", "--gate", "0.125", "--block", "64", "--reveals", "nothing", "--epoch", "2")
    owner, shuffle = (run_json(capsys, "explain", "ffn", *gate, "--renewal", who) for who in ("owner", "shuffle"))
    assert owner["renewal"] is None
    found = shuffle["renewal"]
    assert found["sharing_bytes"] == owner["renewal_bytes"]
    assert shuffle["renewal_bytes"] == 2 * found["online_bytes"] + found["offline_bytes"]
    assert shuffle["average"]["renewal_bytes"] == shuffle["renewal_bytes"] / 2


def test_bench_of_a_shuffle_needs_two_epochs(capsys):
    gate = ("--gate", "0.5", "--reveals", "nothing", "--epoch", "2", "--renewal", "shuffle")
    with pytest.raises(SystemExit):
        main(["bench", "ffn", *gate, "--runs", "3"])
    assert "needs 4 to measure" in "".join(capsys.readouterr())


def test_explain_shows_the_variants_on_a_link(capsys):
    found = run_json(capsys, "explain", "relu", "--link", "far")
    costs = {v["variant"]: v["cost"] for v in found["variants"]}
    assert len(costs) == 4
    assert found["variant"] in costs
    main(["explain", "relu", "--link", "far"])
    (best,) = [line for line in capsys.readouterr().out.splitlines() if line.endswith("*")]
    assert best.startswith(min(costs, key=costs.__getitem__))


def test_explain_prints_a_table(capsys):
    main(["explain", "matmul", "--tokens", "2"])
    printed = capsys.readouterr().out
    assert "Bilinear" in printed
    assert "2 rounds" in printed


@pytest.mark.parametrize("runtime", ["simulated", "devices"])
def test_bench_measures_what_explain_counts(runtime, capsys):
    options = ("ffn", "--tokens", "2")
    counted = run_json(capsys, "explain", *options)
    found = run_json(capsys, "bench", *options, "--runtime", runtime, "--runs", "2")
    assert {k: found[k] for k in ("rounds", "online_bytes", "offline_bytes")} == {
        k: counted[k] for k in ("rounds", "online_bytes", "offline_bytes")
    }
    assert found["max_abs_err"] < 0.01
    assert min(found[k] for k in ("wall_s", "plain_wall_s", "compile_s", "dealer_wall_s")) > 0


def test_bench_in_processes(capsys):
    found = run_json(capsys, "bench", "layernorm", "--tokens", "2", "--runtime", "processes", "--runs", "1")
    assert found["runtime"] == "processes"
    assert found["max_abs_err"] < 0.01


def test_demo_writes_what_the_model_would_write_in_the_clear():
    command = [sys.executable, "-m", "comet_jax.cli", "demo", "--prompt", "import ", "--tokens", "12", "--runs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "the same for 2 of 2 bytes" in done.stdout
    assert "'import '" in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("bench", "relu6"), "there is no case 'relu6'"),
        (("bench", "ffn", "--tokens", "0"), "at least one token"),
        (("bench", "byte_lm", "--tokens", "4096"), "128 positions"),
        (("bench", "relu", "--runs", "0"), "at least one run"),
        (("demo", "--prompt", "x" * 500), "a prompt of 500 bytes"),
        (("demo", "--prompt", ""), "a prompt of 0 bytes"),
        (("demo", "--tokens", "8", "--runs", "8"), "the window has more than the runs"),
        (("client", "--party0", "nowhere"), "give host:port"),
        (("dealer", "--keys", "missing"), "missing"),
    ],
)
def test_mistakes_end_with_one_line_that_says_what_to_do(args, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err


def test_keys_are_made_once(capsys, tmp_path):
    main(["keys", "--folder", str(tmp_path / "keys"), "--roles", "party0"])
    assert "party0.crt  SHA-256 " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["keys", "--folder", str(tmp_path / "keys"), "--roles", "party0"])
    assert "is not replaced" in capsys.readouterr().err
