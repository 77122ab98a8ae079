"""The Python side of python_levenshtein.rs. Prints its version, then answers each line of standard input with a line.

{"source": [...], "dest": [...]}  ->  the number of edits; the pair is stored
{"repeat": N}                     ->  the seconds of N calls of Levenshtein.editops on the pair
"""

import json
import sys
import time
from importlib.metadata import version

import Levenshtein

print(version("Levenshtein"), flush=True)
source = dest = []
for line in sys.stdin:
    request = json.loads(line)
    if "repeat" in request:
        begin = time.perf_counter()
        for _ in range(request["repeat"]):
            Levenshtein.editops(source, dest)
        print(time.perf_counter() - begin, flush=True)
    else:
        source, dest = request["source"], request["dest"]
        print(len(Levenshtein.editops(source, dest)), flush=True)
