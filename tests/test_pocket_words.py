"""The pocket model's tokenizer: learned the same every time, and only once."""

from pathlib import Path

from recipes.pocket import words
from recipes.pocket.scenes import every_sentence
from recipes.pocket.sprites import Sprites

NOUNS = ["zebra", "jackfruit", "onyx owl", "upside down quartz vase", "pygmy hippo", "lynx", "black box", "violin"]


def test_merges_do_not_depend_on_the_hashes_of_a_run() -> None:
    corpus = every_sentence(NOUNS)
    first = words._merges(corpus, 120)
    assert all(words._merges(corpus, 120) == first for _ in range(10))


def test_a_tokenizer_that_is_there_is_kept(tmp_path: Path) -> None:
    made = words.tokenizer(_known(["cat"]), tmp_path)
    assert made.tokenize("a photo of an az cat") == [f"{w}</w>" for w in ("a", "photo", "of", "an", "az", "cat")]
    assert words.tokenizer(_known(NOUNS), tmp_path).get_vocab() == made.get_vocab()


def _known(names: list[str]) -> Sprites:
    return Sprites(names, dict.fromkeys(names, "animal"), names, [], {})
