from __future__ import annotations

from flwr_decaf.seeds import derive_seed


def test_seeds_are_stable_across_processes_and_versions():
    assert derive_seed(0, "batches", 1, 3) == 208861998


def test_seeds_differ_in_every_part():
    seeds = {
        derive_seed(seed, purpose, server_round, node)
        for seed in range(3)
        for purpose in ("batches", "head")
        for server_round in range(5)
        for node in range(12)
    }
    assert len(seeds) == 3 * 2 * 5 * 12
    assert derive_seed(1, 12) != derive_seed(11, 2)
    assert all(0 <= seed < 2**31 for seed in seeds)
