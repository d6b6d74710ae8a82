r"""The comparison of two answers: as text, as an option's letter, or as a value with its unit.

    same(r"$60^\circ$", "60") is True;  same("5 or 6", "5") is False;  same(r"\sin x", "1") is None

These rules are symmetric:
* Spelling doesn't matter: dollars, `\boxed`, `\text`, full width, other minus signs, spaces, `**`.
  Capitals of words don't matter either: `yes` is `Yes`.
* `B`, `(B)`, `B.`, `B: 12`, `B、12`, `Option B` and `b` are one option. An option is no number.
* `AC`, `A, C`, `A and C` are the same options. Their order counts.
* `≥ 5` is neither 5 nor `≤ 5`.
* A unit may be left out, but two different ones are not the same, and none is converted.
* `50%` is 0.5, and 50 too, as if the sign were a unit.
* A name in front may be left out: `x = 5` is 5, but not `y = 5`.
* Values are compared exactly: 1/3 is not 0.333.
"""

import dataclasses
import functools
import re
import unicodedata
from fractions import Fraction

from rrft_jax.rewards import expression
from rrft_jax.rewards.expression import Beyond
from rrft_jax.rewards.value import Malformed, Sequence, Value, constant

_LONGEST = 2 * expression.LONGEST  # characters of an answer, dollars included
_END_OF_TEXT = 2000  # characters at the end of prose in which an answer is searched

# Resolved before NFKC, which would turn 5² into 52 and 1½ into 11/2.
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_SIGNS = str.maketrans(
    {
        "−": "-", "﹣": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ",
        "÷": "/", "⁄": "/", "∕": "/", "∶": ":", "π": r"\pi ", "√": r"\sqrt ", "º": "°",
        "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∠": r"\angle ",
        "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "【": "[", "】": "]", "。": ".",
        "\xa0": r"\,", "\u2009": r"\,", "\u202f": r"\,", "△": r"\triangle ",
    }
)  # fmt: skip
_DASH = re.compile(r"(?<![\w)}])[‐-―](?=\s*[\d.\\])")

_WORDS = re.compile(
    r"\\(?:text|mathrm|textbf|textit|textrm|mathbf|mathit|mathsf|boldsymbol|underline"
    r"|operatorname|mbox|hbox|rm|bf)"
    r"\s*\{([^{}]{0,99})\}"
)
_DROPPED = re.compile(
    r"\\(?:left|right|big|Big|bigl|bigr|Bigl|Bigr|displaystyle|boxed|fbox)(?![A-Za-z])"
)
_BARS = re.compile(r"\\(?:[lr]?vert|mid)(?![A-Za-z])")
_QUOTED = re.compile(r"[\"'“”‘’「『]([^\"'“”‘’「」『』]+)[\"'“”‘’」』]")
_SPACES = re.compile(r"\\(?:[,;:! ]|q?quad(?![A-Za-z]))|~|\s+")
_GROUPING = re.compile(r"(?<=\d)(?:\\[,!;]|\{,\}|,\\!)(?=\d{3}(?!\d))", re.ASCII)
_DOLLARS = re.compile(r"\\[()\[\]]|(?<!\\)\$+")
_DEGREES = re.compile(
    r"\^\s*(?:\{\s*o\s*\}|o(?![A-Za-z]))"
    r"|\^?\s*(?:\{\s*(?:\\circ|\\degree|°)\s*\}|\\circ(?![A-Za-z])|\\degree|°)"
)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LETTERS = re.compile(r"[A-Za-z]+")
_ARE_WORDS = re.compile(r"(?=.*[^\W\d_]{2})[^\W\d_]++(?:(?:[,;.]? |['-])[^\W\d_]++)*+")
_PERCENT = re.compile(r"\\?%|\bper[ -]cent\b", re.IGNORECASE)

_NUMBER = re.compile(r"[+-]?\d{1,20}(?:\.\d{1,20})?", re.ASCII)

# B, b, (B), B., B), B: 12. A text may follow the letter only after a sign that ends it. It must not
# begin with another option.
_FURTHER_OPTION = re.compile(
    r"[(\[][A-Z][)\]]|(?:\b(?:or|and)\s|[,/&、;]|(?<=[.:)\]、]))\s*[A-Z](?:[.:)\]、]|$)"
)
_OPTION = re.compile(
    r"[(\[]?\s*([A-Z])\s*(?:[)\]]|[.:](?![A-Za-z])|:(?=[A-Z]?[a-z]{2})|、|$)"
    r"|([a-z])$|[(\[]([a-z])[)\]]$"
)
_CALLED = re.compile(
    r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?:?|选项|选|答案[是为]?:?) ?(?!$)",
    re.IGNORECASE,
)
# AC, but not CA, which is a name; also "A, C", "A and C" and "(A)(C)".
_COMPACT = re.compile(r"(?=[A-H]{2})A?B?C?D?E?F?G?H?")
_LETTER = r"[(\[]?[A-Z][)\].]?"
_SEVERAL = re.compile(
    rf"[(\[]?{_LETTER}(?:(?:\s?[,;&、]\s?|,?\sand\s|\s|(?<=[)\]])(?=[(\[])){_LETTER})+[)\]]?"
)

# Relations between two sides. One may also stand in front of a single side: \ge 5.
_RELATION = re.compile(r"\\(?:leq?|geq?|lt|gt|neq?|in|notin)(?![A-Za-z])|[<>]=?")
_SPELT = {r"\leq": r"\le", "<=": r"\le", r"\geq": r"\ge", ">=": r"\ge", r"\lt": "<", r"\gt": ">"}
_SPELT |= {r"\neq": r"\ne"}

_NAMES_OF_UNITS = """
mm millimeter millimeters millimetre millimetres 毫米|nm|µm μm um|in inch inches|ft foot feet
cm centimeter centimeters centimetre centimetres 厘米|dm decimeter decimeters decimetre decimetres
m meter meters metre metres 米|km kilometer kilometers kilometre kilometres 千米 公里|yd yard yards
mi mile miles|mg milligram milligrams|g gram grams 克|kg kilogram kilograms 千克 公斤
lb lbs pound pounds|oz ounce ounces|ms|s sec secs second seconds 秒|min mins minute minutes 分钟
h hr hrs hour hours 小时|day days|week weeks|month months|year years
ml mL milliliter milliliters|l L liter liters litre litres|deg degree degrees 度|deg-C|deg-F
rad radian radians|mph|N newton newtons|J joule joules|W watt watts|kW|V volt volts|Hz|Pa|kPa|mol
usd dollar dollars|eur euro euros|gbp|cny yuan 元|cent cents|unit units|pct percent
"""
_UNITS = {
    name: names.split()[0]
    for names in _NAMES_OF_UNITS.strip().replace("\n", "|").split("|")
    for name in names.split()
}
# Capitals may differ, as in "5 Meters" and "5 CM". Exception: a megagram is no milligram.
_UNITS |= {
    spelt: unit
    for name, unit in _UNITS.items()
    for spelt in (name.upper(), name.capitalize())
    if len(name) > 2 or (len(name) == 2 and unit not in ("mm", "mg", "ms", "nm", "µm"))
    if spelt not in _UNITS
}
_UNIT = "(?:" + "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True)) + ")"
_POWER = r"(?:\s?\^\s?\{?\s?([2-4])\s?\}?|([2-4])|\s(squared|cubed))?"
_MEASURE = rf"(?:(square|sq\.?|cubic|cu\.?)\s)?({_UNIT}){_POWER}"
_BEHIND = re.compile(
    rf"\{{?\s?{_MEASURE}(?:\s?/\s?({_UNIT}){_POWER}|\sper\s({_UNIT}))?\s?\}}?"
    r"(?:\s?\^\s?\{?([23])\}?)?"
)
_ENDS_IN_UNIT = re.compile(rf"(?<![A-Za-z\\])\s?{_BEHIND.pattern}$")
# Formulas in prose: in dollars, or signs of mathematics that touch no word.
_ATOM = (
    r"\\(?:text|mathrm)\{[^{}]{0,99}\}|\\[A-Za-z]+|\\[{}%,;!$]|[.,](?=\d)"
    r"|[-+*/^_=<>{}()\[\]!|%°√π×÷·−²³\d]|(?<=[\d^_{}+*/=-])[A-Za-z](?![A-Za-z])"
    r"|(?<![A-Za-z])[A-Za-z](?=[\^_+*/={}-])|(?<=[-+*/=^(×÷·−}])\ (?=\d)|\ (?=\d+/\d)|\ (?!\d)"
)
_RUN = re.compile(
    r"\$[^$\n]{1,200}\$|\\\([^\n]{1,200}?\\\)"
    rf"|(?<![A-Za-z\d_<>.,])(?:{_ATOM})++(?:{_BEHIND.pattern}(?![A-Za-z]))?",
    re.ASCII,
)
_SAYS_SOMETHING = re.compile(r"[\d\\]", re.ASCII)
_ALTERNATIVE = re.compile(r"\s*(?:or|and)\s*", re.IGNORECASE)
_MARKER = re.compile(r"\b(?:answer|result)\s*(?:is|[:=])[\s:]*|答案[是为:：]*\s*", re.IGNORECASE)
_SENTENCE = re.compile(r"[^\n]*?(?=[.。](?:\s|$)|\n|$)")
_EXPONENTS = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cu": "3", "cubed": "3"}
_CURRENCY = {r"\$": "usd", "€": "eur", "£": "gbp", "¥": "cny"}
_NAMED = re.compile(
    r"((?:m\s?)?\\angle\s?[A-Za-z1-9]{1,3}|\\triangle\s?[A-Z]{3}|\\?[A-Za-z]{1,9}'?"
    r"(?:_\{?\w{1,9}\}?)?(?:\s?\(\w\))?)\s?=\s?(?!=)"
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """The meaning of an answer. `value` is None if the text is no expression that is known here.

    `may_be_more` is True for an expression that only math-verify knows. `option` is the letter of
    an option, or several letters.
    """

    text: str
    option: str | None = None
    name: str | None = None
    value: Value | Sequence | None = None
    unit: str | None = None
    may_be_more: bool = False
    relation: str | None = None  # the sign in front, as in `≥ 5`; "" if it stands further on


def plain(text: str) -> str:
    """Return a text without the parts that add no meaning, in ASCII if possible."""
    text = _RAISED.sub(lambda match: f"^{{{match[0]}}}", text)
    text = _VULGAR.sub(lambda match: f" {match[0]}", text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
    text = _WORDS.sub(r" \1 ", _DROPPED.sub(" ", _BARS.sub("|", _DASH.sub("-", text))))
    text = _GROUPING.sub(",", text)
    text = _SPACES.sub(" ", _DOLLARS.sub(" ", text)).strip(" *`")
    text = re.sub("[.,;]$", "", text).strip(" *`")
    quoted = _QUOTED.fullmatch(text)
    return _unwrapped(re.sub("[.,]$", "", quoted[1]).strip() if quoted else text)


def read(text: str) -> Reading:
    """Read the whole text, if it is one answer and nothing else."""
    text = text.strip()
    if _NUMBER.fullmatch(text):  # a shortcut for the most frequent answers
        return Reading(text, value=constant(Fraction(text)))
    return _read(text) if len(text) <= _LONGEST else Reading(text)


@functools.lru_cache(1024)  # a group has few different answers
def _read(text: str) -> Reading:
    text = plain(text)
    if option := _option(text):
        return Reading(text, option=option)
    if len(text) > _LONGEST:
        return Reading(text)
    content = _unwrapped(_PERCENT.sub(" pct", _DEGREES.sub(" deg ", text)).strip())
    content = re.sub(r"deg\s+([CF])$", r"deg-\1", content)
    name = _NAMED.match(content)
    try:
        if name:
            found = _measured(_unwrapped(content[name.end() :]))
            if found and _is_constant(found[0]):
                short = re.sub(r"^m(?=\s?\\angle)|\\angle|[\s{}]", "", name[1])
                return Reading(text, None, short, *found)
        found = _measured(content)
        return Reading(text, None, None, *found) if found else Reading(text)
    except Beyond:
        relation = _RELATION.search(content)
        if relation:
            relation = "" if relation.start() else _SPELT.get(relation[0], relation[0])
        return Reading(text, may_be_more=_is_formula(content), relation=relation)


def _option(text: str) -> str | None:
    """Return the letter of an option, or the letters of several options."""
    called = _CALLED.match(text)
    text = text[called.end() :] if called else text
    if _SEVERAL.fullmatch(text) or _COMPACT.fullmatch(text):
        return "".join(re.findall("[A-Z]", text))
    option = _OPTION.match(text)
    if option and not _FURTHER_OPTION.search(text, option.end()):
        return next(filter(None, option.groups())).upper()
    return None


def same(a: Reading, b: Reading) -> bool | None:
    """Return whether two answers are equal; None if only math-verify can tell. Symmetric."""
    if _squeezed(a.text) == _squeezed(b.text):
        return bool(a.text)
    if a.option or b.option:
        return a.option == b.option
    if a.relation or b.relation:
        if a.relation != b.relation:
            return False
        a, b = (read(_RELATION.sub("", x.text, count=1)) for x in (a, b))
        return None if a.relation or b.relation else same(a, b)
    if any(x.relation == "" and isinstance(y.value, Value) for x, y in ((a, b), (b, a))):
        return False
    if a.value is None or b.value is None:
        one_is_none = (a.value is None and not a.may_be_more) or (
            b.value is None and not b.may_be_more
        )
        return False if one_is_none else None
    if not _agree(a.name, b.name) or not _agree(a.unit, b.unit):
        return False
    if any(x.frozen == y.frozen for x, y in pairs(a, b)):
        return True
    return None if a.value.is_opaque or b.value.is_opaque else False


def pairs(a: Reading, b: Reading) -> list[tuple[Value | Sequence, Value | Sequence]]:
    """Return the pairs of values to compare.

    If only one value has a percent sign, there are two pairs: with it, and with a hundredth of it.
    """
    found = [(a.value, b.value)]
    if "pct" in (a.unit, b.unit) and a.unit != b.unit:
        hundredth = [_hundredth(x) if x.unit == "pct" else x.value for x in (a, b)]
        found.append((hundredth[0], hundredth[1]))
    return found


def is_prose(reading: Reading) -> bool:
    """Return whether the whole text is no answer, so that an answer may still stand inside it."""
    return reading.option is None and reading.value is None and not reading.may_be_more


def found_in(text: str) -> str | None:
    r"""Return the answer in prose: in the last `\boxed`, after `answer is`, or at the end.

    Return None if there is no answer, or if the last two are alternatives, as in `5 or 6`.
    """
    text = text[-_END_OF_TEXT:]
    box = text.rfind(r"\boxed{")
    if box >= 0:
        end = _closing(text, box + len(r"\boxed"))
        return text[box : end + 1] if end >= 0 else None
    *_, marker = [None, *_MARKER.finditer(text)]
    if marker:
        text = text[marker.end() :]
        rest = _SENTENCE.match(text)[0]
        if (reading := read(rest)).option or reading.value is not None:
            return rest
    runs = [match for match in _RUN.finditer(text) if _SAYS_SOMETHING.search(match[0])]
    if not runs:
        return None
    chosen = 0 if marker else len(runs) - 1
    for one, other in zip(runs, runs[1:]):
        if runs[chosen] in (one, other) and _ALTERNATIVE.fullmatch(text, one.end(), other.start()):
            return None
    found = runs[chosen][0].rsplit("=", 1)[-1].strip().rstrip(" .,;:+*/-")
    return found if found.count("(") == found.count(")") else found.strip("() ")


def comparable(a: Reading, b: Reading) -> bool:
    """Return whether both are real numbers, without different units or names."""
    values = [x.value.number if x.value is not None else None for x in (a, b)]
    return None not in values and _agree(a.name, b.name) and _agree(a.unit, b.unit)


def _agree(a: str | None, b: str | None) -> bool:
    return a is None or b is None or a == b


def _squeezed(text: str) -> str:
    """Remove spaces that don't separate two words or numbers, and capitals of words."""
    text = re.sub(r"(?<![\w,.])\s|\s(?![\w,.])", "", text)
    return text.casefold() if _ARE_WORDS.fullmatch(text) else text


def _hundredth(reading: Reading) -> Value | Sequence:
    value = reading.value
    if not isinstance(value, Value):
        return value
    return Value({powers: factor / 100 for powers, factor in value.terms.items()})


def _is_constant(value: Value | Sequence) -> bool:
    if isinstance(value, Sequence):
        return all(map(_is_constant, value.values))
    return value.number is not None


def _is_formula(text: str) -> bool:
    """Return whether the text has no words except those of mathematics."""
    words = _LETTERS.findall(_COMMAND.sub(" ", text))
    return all(len(word) == 1 or word in {*expression.FUNCTIONS, "deg", "pct"} for word in words)


def _unwrapped(text: str) -> str:
    """Remove braces around the whole text."""
    text = text.strip()
    while text.startswith("{") and text.endswith("}") and _closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def _closing(text: str, start: int) -> int:
    """Return the index that closes the brace at `start`, or -1."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return place
    return -1


def _measured(text: str) -> tuple[Value | Sequence, str | None] | None:
    """Return (value, unit or None) of a text; None if the text has no value."""
    for sign, unit in _CURRENCY.items():
        if text.startswith(sign) or text.endswith(sign):
            found = _value(text.removeprefix(sign).removesuffix(sign).strip())
            return (found, unit) if found else None
    unit = _ENDS_IN_UNIT.search(text)
    if unit:
        try:
            value = _value(_unwrapped(text[: unit.start()]))
        except Beyond:
            value = None
        if value and _is_constant(value):
            return value, _unit(unit)
    value = _value(text)
    return (value, None) if value else None


def _value(text: str) -> Value | Sequence | None:
    try:
        if ":" in text:  # a ratio, which is not reduced: 2:4 may be a score, or a time
            return Sequence(":", tuple(map(expression.read, text.split(":"))))
        return expression.read(text)
    except Malformed:
        return None


def _unit(match: re.Match) -> str | None:
    """Return the unit's canonical name; None for `units`, which has no meaning."""
    before, name, *powers, below, b1, b2, b3, per, outer = match.groups()
    power = next(filter(None, (before, *powers, outer)), "1").removesuffix(".")
    unit = _UNITS[name] + _EXPONENTS.get(power, power).replace("1", "")
    if below or per:
        power = next(filter(None, (b1, b2, b3)), "1")
        unit += "/" + _UNITS[below or per] + _EXPONENTS.get(power, power).replace("1", "")
    return None if _UNITS[name] == "unit" else unit
