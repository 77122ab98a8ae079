"""Tests of house_style.py: what each rule corrects, and what it leaves alone.

    python3 -m unittest discover -s examples/python
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

from british_spelling import BRITISH
from house_style import RULES, corrected, score

SCRIPT = Path(__file__).with_name("house_style.py")

# For each rule: a text, its revision, and how often it breaks this rule. It breaks no other one.
CORRECTED = {
    "bold": [
        ("**Rest** well, and **drink water**.", "Rest well, and drink water.", 2),
        ("1. **Plan ahead:** Make a list.", "1. Plan ahead: Make a list.", 1),
    ],
    "exclamations": [
        ("Well done! You won!!!", "Well done. You won.", 2),
        ("Really?! Yes!?", "Really? Yes?", 2),
        ("“Stop!” she said. “Go!”", "“Stop,” she said. “Go.”", 2),
        ("Wow...! Wow!... Oh! what a day!", "Wow... Wow... Oh, what a day.", 4),
        ("We met (what luck!) in Rome. (It was hot!)", "We met (what luck) in Rome. (It was hot.)", 2),
        ("Happy 2025! A nice day! :)", "Happy 2025. A nice day. :)", 2),
    ],
    "contractions": [
        ("I'M sure it's fine, and they’re here.", "I AM sure it is fine, and they are here.", 3),
        ("Don’t. DON'T. I can't, won't or shan't.", "Do not. DO NOT. I cannot, will not or shall not.", 5),
        ("Why don't you ask? Isn't it nice? IT'S HOT.", "Why do you not ask? Is it not nice? IT IS HOT.", 3),
        ("It's been long. She's got it. That's always been so.",
         "It has been long. She has got it. That has always been so.", 3),
        ("Let's come. Here's why. What's new? He's tall.", "Let us come. Here is why. What is new? He is tall.", 4),
        ("I'd love to. You'd better go. We'd really like it.",
         "I would love to. You had better go. We would really like it.", 3),
        ("We've won. You'll see. You should've come.", "We have won. You will see. You should have come.", 3),
    ],
    "plain words": [
        ("In order to win, utilize numerous tools.", "To win, use many tools.", 3),
        ("Additionally, approximately ten individuals came.", "Also, about ten people came.", 3),
        ("Ensure that we assist them PRIOR TO dawn.", "Make sure that we help them BEFORE dawn.", 3),
        ("Fruit (e.g. figs), i.e., food.", "Fruit (for example, figs), that is, food.", 2),
        ("Figs, nuts, etc. E.g., dried ones.", "Figs, nuts and so on. For example, dried ones.", 2),
        ("Figs, etc., nuts, and etc. (rice etc.) etc...",
         "Figs and so on, nuts and so on (rice and so on) and so on...", 4),
        ("As an example (i.e.: one).", "As an example (that is: one).", 1),
    ],
    "spelling": [
        ("My favorite color is gray.", "My favourite colour is grey.", 3),
        ("We apologize for the organization.", "We apologise for the organisation.", 2),
        ("The traveler at the center analyzes fibers.", "The traveller at the centre analyses fibres.", 4),
        ("1) Color and COLOR. 2. Flavor: Harbor", "1) Colour and COLOUR. 2. Flavour: Harbour", 4),
        ("Skillful, cozy defense of a color-coded catalog.", "Skilful, cosy defence of a colour-coded catalogue.", 5),
    ],
    "figures": [
        ("Wait 10-15 minutes, or 3 - 5 days.", "Wait 10–15 minutes, or 3–5 days.", 2),
        ("It costs $5-$10 in 1939-1945.", "It costs $5–$10 in 1939–1945.", 2),
        ("Save 20% or 5.5 %, ten percent.", "Save 20 per cent or 5.5 per cent, ten per cent.", 3),
        ("From 5-10% to 5%-9%.", "From 5–10 per cent to 5 per cent–9 per cent.", 5),
    ],
    "dates": [
        ("On March 5th, 2024, we met.", "On 5 March 2024, we met.", 1),
        ("July 4, 1776 and Dec. 25 2020", "4 July 1776 and 25 December 2020", 2),
        ("From May 5 to June 06.", "From 5 May to 6 June.", 2),
        ("The 5th of May, 2020, or the 3rd June, or 3 Sept 2021", "5 May 2020, or the 3 June, or 3 September 2021", 3),
        ("On 12/25/2024, 26/12/2024 or 5/5/2024", "On 25 December 2024, 26 December 2024 or 5 May 2024", 3),
    ],
    "numbers": [
        ("We have 3 cats and 2 old dogs.", "We have three cats and two old dogs.", 2),
        ("It takes 5 minutes, 7 times a week.", "It takes five minutes, seven times a week.", 2),
    ],
    "quotes": [
        ('They said "yes" and ("no").', "They said “yes” and (“no”).", 2),
        ('"Come in," he said. "It is late."', "“Come in,” he said. “It is late.”", 2),
        ('Type "`ls`" there.', "Type “`ls`” there.", 1),
    ],
    "lists": [
        ("Red, white, and blue.", "Red, white and blue.", 1),
        ("Tea, hot coffee, or milk; figs, nuts, and so on.", "Tea, hot coffee or milk; figs, nuts and so on.", 2),
        ("If you can, buy eggs, milk, and flour.", "If you can, buy eggs, milk and flour.", 1),
    ],
}  # fmt: skip

# For each rule: texts that it must leave alone. They break no other rule either.
UNCHANGED = {
    "bold": ["2**3** and **2**3", "a ** b ** c, ** d**", "**not closed", "*Rest* well", "****"],
    "exclamations": ["5! is 120", "a != b", "![a picture](a.png)", "vec![1], go!(x), a!=b", "( ! )", "Is it?"],
    "contractions": [
        "The dog's bone, the Smiths' house, o'clock.", "He's gone. She's finished. It's own goal. Who's told them?",
        "I'd put it there, as I like.", "Isn't this nice? Why don't people come? I wasn't there.", "y'all ain't",
    ],
    "plain words": [
        "They are more numerous.", "An assist and an approximately equal part.", "The individuals' rights.",
        "An individual is additional.", "egg, etching, i.",
    ],
    "spelling": [
        "Pearl Harbor and the Center for Science.", "Labor Day is in May.", "The size of a prize, a program, a meter.",
        "We practice, and have a license.", "glamorous, humorous, honorary",
        "Install center=1 or a.color or color_a or color(1)",
    ],
    "figures": [
        "Call 555-1234 or 555-123-4567.", "They won 3-2.", "On 2024-03-05.", "COVID-19 and F-16", "10 - 15 = -5",
        "A percentage.", "A 10-15-minute walk.", "100%natural", "Version 1.2-1.3.1",
    ],
    "dates": [
        "On 3/5/2024.", "The September 11 attacks.", "March 3–7", "The 4th of July.", "May 45, 2020", "5 March 2024",
        "In March 2024, 5 people came.", "It was 5 Dec. Then", "13/13/2024", "March 5,000", "May 5 people come?",
    ],
    "numbers": [
        "Add 2 cups and 3 tablespoons.", "In step 3 below, see chapter 5 there.", "It takes 2 or 3 days, 4 to 5 hours.",
        "My iPhone 6 works.", "3 apples", "- 2 eggs", "x = 5 and 5 plus 3 equals 8", "We paid $5 each, 2.5 hours.",
        "We have 12 cats, or 5 million.", "2 times 3 times 4", "A 5-minute walk at 5 pm.",
    ],
    "quotes": [
        'A 6" pipe and a 9"x4" board.', '<a href="b">', "'single' ones", 'not "closed, not "closed"x', "“curly”",
        '" spaced "', '" a"',
    ],
    "lists": [
        "We ate, and they slept.", "After lunch, Ann slept, and Bob ran.", "I saw Tom, who is tall, and Ann.",
        "I like tea, coffee, and you like milk.", "Bread, salt and butter, and jam.",
        "Ann, one of the few people in all of town, and Bob",
    ],
}  # fmt: skip

PROTECTED = [
    "`don't!` and `color`", "```\nit's \"color\"!\n```", "```\nnot closed: don't!", "a \ue000 b",
    "See https://example.com/color/10-15?a=1!b now", "www.example.com/a?b=10-15 is one",
    "Write to color.5-9@example.com now",
]  # fmt: skip


def violations(text):
    return {rule: number for rule, number in corrected(text)[1].items() if number}


class HouseStyleTest(unittest.TestCase):
    def check_stable(self, text):
        revision = corrected(text)[0]
        self.assertEqual((corrected(revision)[0], violations(revision)), (revision, {}), text)

    def test_each_rule_corrects_its_violations(self):
        self.assertEqual(list(CORRECTED), list(RULES))
        for rule, cases in CORRECTED.items():
            for text, revision, number in cases:
                with self.subTest(text):
                    self.assertEqual((corrected(text)[0], violations(text)), (revision, {rule: number}))

    def test_each_rule_leaves_other_texts_alone(self):
        self.assertEqual(list(UNCHANGED), list(RULES))
        for text in [text for cases in UNCHANGED.values() for text in cases]:
            with self.subTest(text):
                self.assertEqual((corrected(text)[0], violations(text)), (text, {}))

    def test_code_links_and_addresses_stay(self):
        for text in PROTECTED:
            with self.subTest(text):
                self.assertEqual((corrected(text)[0], violations(text)), (text, {}))
        text, revision = "It's `it's`, see https://a.org/it's! It's.", "It is `it's`, see https://a.org/it's. It is."
        self.assertEqual(corrected(text)[0], revision)

    def test_revisions_of_any_text_are_stable(self):
        texts = [text for cases in CORRECTED.values() for text, _, _ in cases]
        texts += [text for cases in [*UNCHANGED.values(), PROTECTED] for text in cases]
        parts = [part for text in texts for part in re.findall(r"\s|\w+|.", text)]
        texts.append("Oh!etc. 5 - 12/25/2024")  # where one correction makes room for another
        choose = random.Random(0).choices
        for _ in range(500):
            self.check_stable("".join(choose(parts, k=60)))
            self.check_stable("".join(choose(parts + [" "] * len(parts), k=60)))
            self.check_stable(" ".join(choose(texts, k=3)))
        for text in texts:
            self.check_stable(text)

    def test_british_words(self):
        american = """prioritizing paralyzed neighborhoods behavioral signaling counselors enrollment willfully
            installments kilometers centerpiece centered defenseless dialogs graying moldy plows moms coziest skeptical
            anesthesia pediatricians sulfuric toward aging pajamas maneuvers"""
        british = """prioritising paralysed neighbourhoods behavioural signalling counsellors enrolment wilfully
            instalments kilometres centrepiece centred defenceless dialogues greying mouldy ploughs mums cosiest sceptical
            anaesthesia paediatricians sulphuric towards ageing pyjamas manoeuvres"""
        self.assertEqual([BRITISH.get(word) for word in american.split()], british.split())
        # A correction must not lead to the next one.
        self.assertFalse(set(BRITISH) & set(BRITISH.values()))

    def test_scores_are_violations_per_hundred_words(self):
        self.assertEqual(score("It's a gray day, is it not, my dear friend?"), -20)
        self.assertEqual((score("Fine."), score("")), (0, 0))

    def test_commands_answer_each_line(self):
        def answers(command, requests):
            """Reads each answer before the next request, as figa curate does."""
            arguments = [sys.executable, SCRIPT, command]
            environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUNBUFFERED": ""}
            with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as run:
                timer = threading.Timer(10, run.kill)
                timer.start()
                for request in requests:
                    run.stdin.write(json.dumps(request, ensure_ascii=False).encode() + b"\n")
                    run.stdin.flush()
                    yield json.loads(run.stdout.readline())
                run.stdin.close()
                self.assertEqual((run.stdout.read(), run.wait()), (b"", 0))
                timer.cancel()

        scores = answers("score", [{"instruction": "", "answer": "It's red"}, {"answer": "red"}])
        self.assertEqual(list(scores), [-50, 0])
        revisions = answers("revise", [{"original_output": "It's\nré"}, {"original_output": "red", "prompt": ""}])
        self.assertEqual(list(revisions), [{"revised_output": "It is\nré"}, {"revised_output": "red"}])

    def test_count_reads_records_and_evaluations(self):
        def count(text, *arguments):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "answers")
                path.write_text(text, encoding="utf-8")
                command = [sys.executable, SCRIPT, "count", path, *arguments]
                return subprocess.run(command, capture_output=True, text=True)

        table = count('{"original_output": "It\'s gray."}\n\n{"original_output": "It\'s red."}\n').stdout.splitlines()
        self.assertEqual(len(table), len(RULES) + 4)
        lines = {line[:14].strip(): line.split()[-3:] for line in table}
        self.assertEqual(lines["contractions"], ["2", "50.000", "2"])
        self.assertEqual(lines["spelling"], ["1", "25.000", "1"])
        self.assertEqual((lines["bold"], lines["all"]), (["0", "0.000", "0"], ["3", "75.000", "2"]))
        self.assertEqual(table[-1], "answers: 2, words: 4")
        evaluation = json.dumps({"records": [{"answer": "gray", "original": "x"}, {"original": "not answered"}]})
        self.assertIn("answers: 1, words: 1", count(evaluation).stdout)
        self.assertIn("words: 3", count('[{"x": "a b c"}]', "--field", "x").stdout)
        failed = count('{"answer": "a"}\n{"x": 1}')
        self.assertIn("record 2: expected a text in the field original_output", failed.stderr)
        self.assertEqual((failed.returncode, count("").returncode, count("{").returncode), (1, 0, 1))


if __name__ == "__main__":
    unittest.main()
