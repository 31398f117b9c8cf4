"""Which documents go where: shards of rows, limits and held-out shares against naive references."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("datasets")

from datasets import Dataset  # noqa: E402
from fblt.training.data.inputs import Opened, Source  # noqa: E402
from fblt.training.packing.corpus import Corpus, build_corpus, plan_shards  # noqa: E402
from fblt.training.packing.sequences import within_limits  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.thorough import cases  # noqa: E402

EXAMPLES = settings(max_examples=cases(30, 1000), deadline=None, derandomize=True)


def corpus_of(sizes: list[int], order: list[int]) -> Corpus:
    found = np.array(sizes, dtype=np.int64)
    return Corpus(None, ["text"], ["s"], np.zeros(len(found), dtype=int), found[:, None], {"train": np.array(order)})


@EXAMPLES
@given(st.data(), st.lists(st.integers(0, 40), min_size=1, max_size=25), st.integers(2, 12), st.integers(1, 4))
def test_shards_end_to_end_are_the_rows_of_all_documents(data, sizes, length, batch_size):
    order = data.draw(st.permutations(range(len(sizes))))
    shard_bytes = data.draw(st.integers(1, 200))
    stream = [(document, i) for document in order for i in range(sizes[document] + 2)]
    rows = len(stream) // length
    if rows == 0:
        with pytest.raises(ValueError, match="less than one row"):
            plan_shards(corpus_of(sizes, order), length, batch_size, shard_bytes)
        return
    shards, left_over = plan_shards(corpus_of(sizes, order), length, batch_size, shard_bytes)
    found = []
    for shard in shards:
        ids = [(document, i) for document in shard.documents.tolist() for i in range(sizes[document] + 2)]
        taken = ids[shard.skip : shard.skip + shard.rows * length]
        # It is offered the documents that it needs, and no more.
        assert ids and taken[0][0] == shard.documents[0] and taken[-1][0] == shard.documents[-1]
        found += taken
    assert found == stream[: rows * length]
    assert left_over == {"train": len(stream) - rows * length}
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert all(shard.rows % batch_size == 0 for shard in shards[:-1])


@EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=20), st.integers(0, 30))
def test_limits_keep_documents_until_those_before_reach_them(documents, limit):
    sources, sizes = np.array(documents, dtype=np.int64).reshape(-1, 2).T
    taken, expected = {0: 0, 2: 0}, []
    for source, size in documents:
        expected.append(source == 1 or taken[source] < limit)
        if source != 1 and expected[-1]:
            taken[source] += size
    assert within_limits(sources, sizes, [limit, None, limit]).tolist() == expected


@settings(EXAMPLES, max_examples=cases(10, 100))
@given(st.integers(1, 30), st.integers(0, 30), st.sampled_from([0.0, 0.01, 0.3]), st.integers(0, 3))
def test_each_source_without_validation_text_holds_out_its_share(one, two, share, seed):
    made = [
        Opened(
            Source(name, f"{name}.jsonl"), {"train": Dataset.from_dict({"text": [f"{name}{i}" for i in range(n)]})}, []
        )
        for name, n in (("a", one), ("b", two + 1))
    ]
    made[1].splits["validation"] = Dataset.from_dict({"text": ["own"]})
    corpus = build_corpus(made, ["text"], {}, share, seed, Path("never-written"))
    texts = {split: [corpus.documents[int(i)]["text"] for i in order] for split, order in corpus.splits.items()}
    held = int(np.ceil(share * one))
    assert len(texts["validation"]) == 1 + held and "own" in texts["validation"]
    assert {text[0] for text in texts["validation"] if text != "own"} <= {"a"}
    everything = [f"a{i}" for i in range(one)] + [f"b{i}" for i in range(two + 1)] + ["own"]
    assert sorted(texts["train"] + texts["validation"]) == sorted(everything)
