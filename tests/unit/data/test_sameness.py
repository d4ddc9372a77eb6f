"""The key under which two spellings of a question are equal, and properties read from a question's text."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.sameness import compact, figure_mention, key, language, legible

# Four different questions whose only number is the same.
CHINESE = [
    "求所有满足条件的正整数的个数，其中最大的数是 2022。",
    "在 2022 个盒子中放球，问至少需要多少个球？",
    "一个等差数列共有 2022 项，求其公差。",
    "甲乙两人轮流取 2022 枚硬币，谁有必胜策略？",
]
SIGNS = [*"+-*/=<>^|!.()[]:%&'_~∼…#@?→≡∈", "\\not", "\\mathbb", "\\text", "\\cdot"]
LETTERS = list("xyzABdkαβΩжЯ中文数あカ가ℝא")
WORD = st.sampled_from([*LETTERS, "x^{2}", "\\frac{1}{3}", "\\pi", "17", "2022"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Find $x+1$.", "Find $ x + 1 $ ."),
        ("Find $x+1$.", "Find \\(x+1\\)."),
        ("Find $x+1$.", "Find \\[\nx+1\n\\]."),
        ("$\\left(\\dfrac{1}{2}\\right)^{2}$", "$(\\frac{1}{2})^2$"),
        ("$a,\\, b\\;\\text{ and }\\quad c$", "$a, b\\text{ and }c$"),
        ("$x \\leq 3$, $y \\neq z$", "$x \\le 3$, $y \\ne z$"),
        ("设 $n=3$，求 m 的值", "设$n=3$, 求m的值"),
        ("ﬁnd ｘ ＝ １２", "find x = 12"),
        ("x² + H₂", "x^2 + H_2"),
        ("x¹²", "x^{12}"),
        ("3 − 2 × 5", "3 - 2 \\times 5"),
        ("Janet’s “best” eggs", "Janet's best eggs"),
        ("ques\u00adtion\u200b one", "question one"),
        ("$12{,}000$", "12,000"),
        ("$\\frac{a}{b}$", "$\\frac a b$"),
    ],
)
def test_ways_of_writing_one_question(first, second):
    assert key(first) == key(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("x+1", "x-1"), ("x=1", "x<1"), ("a|b", "ab"), ("n!", "n"), ("1.5", "15"), ("1.5", "1 5"), ("3:2", "3,2"),
        ("1 2", "12"), ("1,2", "12"), ("1½", "11/2"), ("①2", "12"), ("2⒈5", "21.5"), ("x²", "x2"), ("x₂", "x2"),
        ("x^{12}", "x^{1}2"), ("x^12", "x^1 2"), ("f(x)", "f x"), ("[0,1)", "[0,1]"), ("f'(x)", "f(x)"), ("50%", "50"),
        ("X+y", "x+y"), ("AB", "ab"), ("\\Delta", "\\delta"), ("ab", "a b"), ("ℝ", "R"), ("µ", "m"),
        ("\\{1\\}", "1"), ("{1+2}", "1+2"), ("S={1}", "S=1"), ("1～9", "1,9"), ("a ~ b", "a b"), ("x \\not= y", "x = y"), ("\\sin x", "\\cos x"), ("-5", "5"), ("中文", "文中"), ("ж", "я"),
    ],
)  # fmt: skip
def test_different_questions_stay_apart(first, second):
    assert key(first) != key(second)
    assert key(f"Find {first} now.") != key(f"Find {second} now.")


def test_questions_in_chinese_that_share_a_number_stay_apart():
    assert len({key(question) for question in CHINESE}) == len(CHINESE)
    assert all("2022" in key(question).split() for question in CHINESE)


@given(st.lists(WORD, min_size=1, max_size=12), st.sampled_from(SIGNS), st.data())
def test_no_sign_is_lost(words, sign, data):
    """A sign inserted between any two words changes the key."""
    i = data.draw(st.integers(1, len(words)))
    without = " ".join(words)
    assert key(" ".join([*words[:i], sign, *words[i:]])) != key(without)


@given(st.lists(WORD, min_size=1, max_size=12), st.data())
def test_no_letter_is_lost(words, data):
    i = data.draw(st.integers(0, len(words) - 1))
    other = data.draw(st.sampled_from([letter for letter in LETTERS if letter != words[i]]))
    assert key(" ".join(words)) != key(" ".join([*words[:i], other, *words[i + 1 :]]))


@given(st.text())
def test_every_letter_and_digit_is_in_the_key(text):
    """Apart from normalised forms, the key holds the text's letters and digits in order."""
    plain = unicodedata.normalize("NFKC", text)
    commands = re.compile(r"\\(?:[A-Za-z]+|.)", re.DOTALL)
    wanted = [c for c in commands.sub("", plain) if c.isalnum()]
    held = [c for c in commands.sub("", unicodedata.normalize("NFKC", key(text))) if c.isalnum()]
    assert held == wanted


@given(
    st.lists(WORD, min_size=1, max_size=12),
    st.lists(st.sampled_from([" ", "  ", "\n", "\t", "\u00a0", "\u3000"]), min_size=13, max_size=13),
)
def test_white_space_does_not_matter(words, spaces):
    spread = "".join(space + word for space, word in zip(spaces, words, strict=False)) + spaces[-1]
    assert key(spread) == key(" ".join(words))


def test_numbers_keep_their_borders():
    @given(
        st.lists(st.integers(0, 10**6), min_size=1, max_size=5), st.lists(st.integers(0, 10**6), min_size=1, max_size=5)
    )
    def check(first, second):
        same = key(", ".join(map(str, first))) == key(", ".join(map(str, second)))
        assert same == (first == second)

    check()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ufeffHow many?", "How many?"), ("How\u200b many\u2060?", "How many?"), ("ques\u00adtion", "question"),
        ("\u202aHow\u202c \u2066many\u2069?", "How many?"), ("x\u200d+\u200c1", "x+1"), ("\u200d\u200d", ""), ("é\u200d", "é"),
        ("5\ufe0f", "5"), ("\\pi\u200br^2", "\\pi r^2"), ("שלום\u200f 5", "שלום 5"), ("求\u200b值", "求值"), ("中\u200b\u200d文", "中文"),
    ],
)  # fmt: skip
def test_invisible_characters_go(text, expected):
    assert legible(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم", "क्\u200dष", "ക്\u200d", "ශ්\u200dරී", "👨\u200d👩\u200d👧", "❤\ufe0f\u200d🔥", "葛\U000e0100", "ᠠ\u180b", "1\u00a02\u20093\u3000é",
        "$x \\le\x14 2y$ é", "\x08eta é", "naïve", "\tx\r\n", "e\u0301", "Find $x$.", "“x”—y…", "𝑥²",
    ],
)  # fmt: skip
def test_what_is_seen_or_shapes_a_word_stays(text):
    assert legible(text) == text


def test_compact_is_nfkc_without_white_space():
    assert compact(" Ｆind x² \n+ 1 2\u3000") == "Findx2+12"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Find all $x$ with $x^2=4$.", "en"), ("$x^2=4$", "en"), ("", "en"), ("Trouve αβγ, s'il te plaît", "en"),
        ("求所有正整数 $n$。", "zh"), ("设 a_0=0,a_{3n}=a_n (n\\geq1)，则 a_{2021}=", "zh"), (CHINESE[0], "zh"),
        ("设 $$\\begin{aligned} &x=1 \\end{aligned}$$ 求", "zh"), ("What does the character 中 mean in this question?", "en"),
        ("Решите уравнение $x+1=2$", "other"), ("次の方程式を解け。", "other"), ("다음을 구하시오", "other"),
    ],
)  # fmt: skip
def test_language(text, expected):
    assert language(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Find the area. [asy] draw((0,0)--(1,1)); [/asy]", "As shown in the diagram, find $x$.", "In the figure below, AB=3.",
        "The figure shows a cube.", "What is the area of the region shown below?", "Squares are arranged as shown. Count them.",
        "如图，求面积。", "The following diagram has 3 lines.", "See Figure 2.", "![a](b.png)", "\\includegraphics{x}",
        "https://example.org/a.png", "The graph below shows", "\\begin{tikzpicture}", "How long is the path shown?", "In the five-sided star shown, the sum",
    ],
)  # fmt: skip
def test_questions_that_need_a_figure(text):
    assert figure_mention(text)


@pytest.mark.parametrize(
    "text",
    [
        "How many three-figure numbers are there?", "The graph of $y=x^2$ is shifted.", "It can be shown that $x=1$.",
        "Show that it is shown that x.", "Give the answer to two significant figures.", "A connected graph has 5 vertices.",
        "Lines are drawn through the point.", "Round table seating for 5.", "函数的图像关于原点对称", "Imagine a picture frame.", "What is the area of the figure?",
        "Fill the grid below: \\begin{array}{c} 1 \\end{array}", "The theorem shown that way",
    ],
)  # fmt: skip
def test_questions_that_need_no_figure(text):
    assert figure_mention(text) is None


HOSTILE = ["![", "http://", "\\(", "\\[", "$", "$$", "{", "[asy", "the a shown ", "\\begin{", "图", "x^{", "figure "]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("piece", HOSTILE)
def test_no_text_takes_long(piece):
    """A quadratic algorithm would take minutes on these; the test's time limit is the check."""
    text = piece * (200_000 // len(piece))
    key(text)
    compact(text)
    language(text)
    figure_mention(text)
