#!/usr/bin/env python3
"""Score and revise English answers by the ten rules of a house style.

    figa curate answers.jsonl --scorer 'python3 examples/python/house_style.py score' --max-original 0 \\
        --reviser 'python3 examples/python/house_style.py revise' --out pairs.jsonl
    python3 examples/python/house_style.py count answers.jsonl

The rules keep the meaning: where a correction would have to guess, the text stays, and there is no violation. A revised
answer has no violation, so revising it again changes nothing. Code, links and e-mail addresses stay as they are.
"""

import argparse
import json
import re
import sys

from british_spelling import BRITISH

# In the order in which they are applied.
RULES = {
    "bold": "no bold type: **Rest** well -> Rest well",
    "exclamations": "no exclamation marks: Well done! -> Well done.",
    "contractions": "no contractions: it's -> it is; 's and 'd stay where they may stand for two words",
    "plain words": "plain words, no abbreviations: in order to utilize -> to use, e.g. -> for example",
    "spelling": "British spelling: colour, centre, organise; names keep theirs",
    "figures": "dashes in ranges, and per cent: 10-15% -> 10–15 per cent",
    "dates": "day, month, year: March 5th, 2024 -> 5 March 2024",
    "numbers": "one to nine as words, except in lists, sums, ranges, labels and measures",
    "quotes": 'curly quotes: "yes" -> “yes”',
    "lists": "no comma before the last item of a list: a, b, and c -> a, b and c",
}
CORRECTIONS = {rule: [] for rule in RULES}


def correction(rule, pattern, flags=0):
    """Adds a correction to a rule: a function from a match to a text. Each match that it changes is a violation."""

    def add(correct):
        CORRECTIONS[rule].append((re.compile(pattern, flags), correct))
        return correct

    return add


def like(old, new):
    """The new words in the case of the old ones."""
    if old.isupper() and len(old) > 1:
        return new.upper()
    return new[0].upper() + new[1:] if old[0].isupper() else new


def around(match):
    """The text in front of a match, and behind it."""
    return match.string[: match.start()], match.string[match.end() :]


@correction("bold", r"(?<![\w*])\*\*(?=\S)([^*\n]*[^\s*])\*\*(?![\w*])")
def normal_type(match):
    return match[1]


# 5! is a factorial; 2025! is not.
@correction("exclamations", r"(?:(?<=[^\s\d=(\[{!?])|(?<=\d{4}))[!?]*![!?]*(?![\w=\[(])")
def calm_mark(match):
    before, after = around(match)
    if "?" in match[0]:
        return "?"
    within = after[:1] == ")" and re.search(r"[^\s.!?:] *\([^()]*$", before)
    if within or before[-1] in ".…,:;" or after[:1] in (".", "…"):
        return ""
    # "Great!" she said.
    return "," if re.match(r"[\"'”’)*_]* [a-z]", after) else "."


VERBS = "do does did is are was were have has had would should could must need ca wo sha".replace(" ", "|")


@correction("contractions", rf"\b({VERBS})n['’]t\b(?: (I|you|he|she|it|we|they|there)\b)?", re.IGNORECASE)
def negation(match):
    verb, subject = match.groups()
    # Isn't this nice? Why don't people come? I wasn't there.
    question = verb[0].isupper() and verb[1].islower() and verb != "Do" or re.search(r"\b[Ww]hy $", around(match)[0])
    if subject == "there" or question and not subject:
        return match[0]
    verb = like(verb, {"ca": "can", "wo": "will", "sha": "shall"}.get(verb.lower(), verb.lower()))
    negation = "NOT" if verb.isupper() else "not"
    if subject:
        return f"{verb} {subject} {negation}"
    return verb + negation if verb.lower() == "can" else f"{verb} {negation}"


SUBJECTS = "I|you|he|she|it|we|they|that|this|there|who|what"


@correction("contractions", rf"\b({SUBJECTS}|could|should|would|might|must)['’](m|re|ve|ll)\b", re.IGNORECASE)
def full_verb(match):
    verb = {"m": "am", "re": "are", "ve": "have", "ll": "will"}[match[2].lower()]
    return f"{match[1]} {verb.upper() if match[2].isupper() else verb}"


HAS_OR_IS = "it|that|what|there|here|where|how|who|he|she|let"
ADVERBS = "(?: (?:always|also|already|just|never|often|really|only|still|probably|definitely|highly|strongly))*"
# After he, she and who, these show that 's may be "has".
PARTICIPLES = set("done made found left lost won built kept put set taught told".split())


@correction("contractions", rf"\b({HAS_OR_IS})['’]s\b(?={ADVERBS} ?([a-z]*))", re.IGNORECASE)
def is_or_has(match):
    subject, following = match[1], match[2].lower()
    verb = "has" if following in ("been", "become", "got", "had") else "is"
    if subject.lower() == "let":
        verb = "us"
    elif following in ("own", "come", "gone", "grown", "taken"):
        return match[0]
    elif subject.lower() in ("he", "she", "who") and verb == "is":
        if following in PARTICIPLES or following.endswith(("ed", "en")):
            return match[0]
    return f"{subject} {verb.upper() if subject.isupper() else verb}"


WOULD = "appreciate be choose expect go have like love make need prefer recommend say start suggest take try want"
AFTER_D = (WOULD + " better been").replace(" ", "|")


@correction("contractions", rf"\b({SUBJECTS})['’]d\b(?={ADVERBS} ({AFTER_D})\b)", re.IGNORECASE)
def would_or_had(match):
    return f"{match[1]} {'had' if match[2].lower() in ('better', 'been') else 'would'}"


PLAIN = dict(pair.strip().split(": ") for pair in """in order to: to, prior to: before, due to the fact that: because,
    in the event that: if, additionally: also, furthermore: also, moreover: also, approximately: about, numerous: many,
    individuals: people, obtain: get, obtaining: getting, assist: help, assisting: helping, assisted: helped,
    assistance: help, commence: start, commences: starts, commenced: started, commencing: starting, utilize: use,
    utilizes: uses, utilized: used, utilizing: using, utilization: use, utilise: use, utilises: uses, utilised: used,
    utilising: using, utilisation: use, ensure that: make sure that, ensures that: makes sure that,
    ensuring that: making sure that""".split(","))  # fmt: skip


# "An assist" is a noun, "more numerous" a comparison, and "individuals'" a genitive.
@correction("plain words", rf"(?<!\ban )(?<!\bmore )(?<!\bmost )\b({'|'.join(PLAIN)})\b(?!['’])", re.IGNORECASE)
def plain_word(match):
    return like(match[0], PLAIN[match[0].lower()])


@correction("plain words", r"\b(e\.g|i\.e)\b\.?,?", re.IGNORECASE)
def latin(match):
    words = like(match[0][0], "for example" if match[1].lower() == "e.g" else "that is")
    return words + ("" if re.match(r" ?[:)]", around(match)[1]) else ",")


@correction("plain words", r"(?:,? and|,)? ?\betc\b(\.(?!\.))?")
def and_so_on(match):
    before, after = around(match)
    ends = match[1] and re.match(r"[\"'”’)]*(?:\s*$|\s*\n|\s+[A-Z\"“])", after)
    return ("" if before[-1:] in ("", "(", " ", "\n") else " ") + "and so on" + ("." if ends else "")


SENTENCE_START = re.compile(r"(?:^|[.!?:…\n])[\s\"'“‘(*_#>•\d.)-]*$")


@correction("spelling", r"(?<![\w.@#$\\])[A-Za-z]+(?![\w(=])")
def british_word(match):
    word, (before, after) = match[0], around(match)
    british = BRITISH.get(word.lower())
    if british is None:
        return word
    # Pearl Harbor, the Center for Science, Labor Day
    is_name = word.istitle() and (not SENTENCE_START.search(before) or re.match(r" [A-Z]", after))
    return word if is_name else like(word, british)


@correction("figures", r"(?<![\w.,/–-])(\$?)(\d+(?:\.\d+)?)(%?) ?- ?(\$?\d+(?:\.\d+)?)(?![\d/–-]|[.,]\d| ?=)")
def number_range(match):
    dollar, first, percent, last = match.groups()
    telephone = len(first) == 3 and len(last) == 4
    score = float(first) >= float(last.strip("$"))
    return match[0] if telephone or score else f"{dollar}{first}{percent}–{last}"


@correction("figures", r"(?<=\d) ?%(?!\w)|\bpercent\b", re.IGNORECASE)
def per_cent(match):
    return " per cent" if match[0][-1] == "%" else like(match[0], "per cent")


MONTHS = "January February March April May June July August September October November December".split()
MONTH = "(" + "|".join(rf"{name}\b|{name[:3]}\b\.?" if name != "May" else r"May\b" for name in MONTHS) + r"|Sept\b\.?)"
YEAR = r"(?:,? ([12]\d{3})\b(?!/))?"


def date(day, month, year=None):
    """The date, or nothing if there is no such day."""
    name = next(name for name in MONTHS if name[:3] == month[:3])
    return " ".join(filter(None, [str(int(day)), name, year])) if 1 <= int(day) <= 31 else None


@correction("dates", rf"\b{MONTH} (\d\d?)(?:st|nd|rd|th)?\b{YEAR}")
def month_first(match):
    month, day, year = match.groups()
    # Neither "March 3-7" nor "the September 11 attacks".
    ends = r"$|\n|[.,;:)!?](?!\d)| (?:and|or|to|at|is|was|as|for|with|when|until|through)\b"
    return (year or re.match(ends, around(match)[1])) and date(day, month, year) or match[0]


@correction("dates", rf"(\b[Tt]he )?\b(\d\d?)(?:st|nd|rd|th)?( of)? {MONTH}{YEAR}")
def day_first(match):
    the, day, of, month, year = match.groups()
    # The 4th of July is a holiday, and the full stop of "5 Dec." may end a sentence.
    words = date(day, month, year) if year or not (of or month.endswith(".")) else None
    return match[0] if words is None else words if of else (the or "") + words


@correction("dates", r"(?<![\w/.-])(\d\d?)/(\d\d?)/((?:19|20)\d\d)(?![\w/-])")
def numeric_date(match):
    month, day = sorted([int(match[1]), int(match[2])])
    certain = 1 <= month <= 12 and (day > 12 or day == month)
    return certain and date(day, MONTHS[month - 1], match[3]) or match[0]


DIGITS = dict(zip("123456789", "one two three four five six seven eight nine".split()))
# What a number may be the name of when it follows them, and what it measures when they follow it.
LABELS = set("""act age aged ages by channel chapter class day episode equals figure gate grade highway item lesson
    level line minus no nr number omega option page part phase plus point question room round route row rule scale
    scene season section size stage step table times type unit verse version vitamin volume week year zone""".split())
MEASURES = set("""and billion celsius centimeters centimetres cup cups degrees divided dozen equals fahrenheit feet
    foot gallon gallons grams hundred inch inches kilograms kilometers kilometres liter liters litre litres meter
    meters metre metres mile miles million minus mph multiplied ounce ounces per percent pint pints plus pound pounds
    quart quarts squared tablespoon tablespoons tbsp teaspoon teaspoons thousand times trillion tsp yards""".split())


@correction("numbers", r"(?<=[a-z,;] )[1-9](?= ([a-z]{3,})\b)")
def number_word(match):
    before, after = around(match)
    previous = before.split()[-1].strip(",;(\"'“‘*_")
    measure = match[1] in MEASURES and not re.match(r" times (?!\d)", after)
    # A name (iPhone 6), or the second of two numbers (2 or 3).
    other = not re.fullmatch(r"[a-z'’-]+", previous) or re.search(r"\d\S* (?:and|or|to|by) $", before)
    return match[0] if measure or other or previous in LABELS else DIGITS[match[0]]


# Neither inches (6") nor attributes (a="b").
@correction("quotes", r'(?<![\w"“=])"(?=[^\s"])([^"\n]*[^\s"])"(?![\w"])')
def curly_quotes(match):
    return f"“{match[1]}”"


# An item with one of these may be a clause, whose comma has another reason.
CLAUSE = set("""i you he she it we they there this that which who when while where if because although so but and or is
    are was were am be been has have had do does did can could will would should may might must however therefore too
    though please then not""".split())
# A comma behind them may end what introduces a sentence: After lunch, Ann slept, and Bob ran.
INTRODUCTIONS = set("""additionally after also although and as at because before but by due during finally first for
    from furthermore here however if in it like moreover next no now of on once or overall over prior second since so
    sometimes then therefore this through to today under unless until when whether while with without yes""".split())


@correction("lists", r"(?<=,) ([^,.;:!?()\[\]\"“”\n—]+), (?=(and|or) (\w+)(?: (on)\b)?)")
def last_item(match):
    words = match[1].lower().split()
    start = re.split(r"[.!?:;(\n]", around(match)[0])[-1].strip(" ,\"'“‘*_-").lower()
    introduced = "," not in start and start.split(" ")[0] in INTRODUCTIONS
    clause = match[3].lower() in CLAUSE and (match[3], match[4]) != ("so", "on") or CLAUSE.intersection(words)
    return match[0] if introduced or clause or len(words) > 6 else f" {match[1]} "


# Code to its end or that of the text, links, and addresses. The last character stands for what is hidden.
PROTECTED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]+`|(?:https?://|www\.)[^\s\"“”<>)]*[^\s\"“”<>).,;:!?*_'’]|[\w.+-]+@[\w.-]*\w|\ue000",
    re.DOTALL,
)


def corrected(text):
    """The text without violations, and how many of each rule there were."""
    hidden = iter(PROTECTED.findall(text))
    text = PROTECTED.sub("\ue000", text)
    counts, last = dict.fromkeys(RULES, 0), None
    while text != last:  # A correction may make room for another.
        last = text
        for rule, corrections in CORRECTIONS.items():
            for pattern, correct in corrections:
                counts[rule] += sum(correct(match) != match[0] for match in pattern.finditer(text))
                text = pattern.sub(correct, text)
    return re.sub("\ue000", lambda _: next(hidden), text), counts


def per_hundred(violations, words):
    return 100 * violations / max(words, 1)


def score(text):
    """Minus the violations per 100 words: 0 for a text without violations, and less for any other."""
    violations = sum(corrected(text)[1].values())
    return -per_hundred(violations, len(text.split())) if violations else 0


def read_answers(path, field):
    """The answers in lines of JSON, in a list, or in what finetune evaluate --out writes."""
    with sys.stdin if path == "-" else open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        records = json.loads(text)
    except ValueError:
        records = [json.loads(line) for line in text.split("\n") if line.strip()]
    if isinstance(records, dict):
        # finetune evaluate may have measured records that it did not answer.
        records = [record for record in records["records"] if "answer" in record] if "records" in records else [records]
    for number, record in enumerate(records, 1):
        name = field or ("answer" if "answer" in record else "original_output")
        if not isinstance(record.get(name), str):
            raise ValueError(f"record {number}: expected a text in the field {name}")
        yield record[name]


def print_counts(answers):
    words = sum(len(answer.split()) for answer in answers)
    counts = [corrected(answer)[1] for answer in answers]
    counts = [{**count, "all": sum(count.values())} for count in counts]
    print(f"{'rule':<14}{'violations':>12}{'per 100 words':>15}{'answers':>9}")
    for rule in [*RULES, "all"]:
        violations = sum(count[rule] for count in counts)
        concerned = sum(count[rule] > 0 for count in counts)
        print(f"{rule:<14}{violations:>12}{per_hundred(violations, words):>15.3f}{concerned:>9}")
    print(f"\nanswers: {len(answers)}, words: {words}")


def main():
    rules = "\n".join(f"  {rule:<14} {what}" for rule, what in RULES.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"rules:\n{rules}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    commands.add_parser("score", help="print a score for each line of standard input")
    commands.add_parser("revise", help="print a revision for each line of standard input")
    count = commands.add_parser("count", help="print the violations in a file of answers, by rule")
    count.add_argument("file", metavar="FILE", help="lines of JSON, or what finetune evaluate writes, or - for stdin")
    count.add_argument("--field", help="field with the answer [default: answer, or else original_output]")
    args = parser.parse_args()
    sys.stdin.reconfigure(encoding="utf-8")
    if args.command == "count":
        try:
            return print_counts(list(read_answers(args.file, args.field)))
        except (OSError, ValueError) as error:
            sys.exit(f"house_style: {args.file}: {error}")
    for line in sys.stdin:
        request = json.loads(line)
        if args.command == "score":
            print(score(request["answer"]), flush=True)
        else:
            print(json.dumps({"revised_output": corrected(request["original_output"])[0]}), flush=True)


if __name__ == "__main__":
    main()
