"""Write the Ukrainian corpus UA-GEC as records: a text with the errors of its writer, and its correction.

    pip install ua-gec==2.1.3
    python3 examples/python/ua_gec_records.py train ua_gec.jsonl
    figa stats ua_gec.jsonl --tokenizer MODEL

Oleksiy Syvokon et al., UA-GEC: Grammatical Error Correction and Fluency Corpus for the Ukrainian Language, 2021 (CC BY 4.0).
"""

import json
import sys

from ua_gec import Corpus

partition, path = sys.argv[1:3]
with open(path, "w", encoding="utf-8") as out:
    for document in Corpus(partition=partition, annotation_layer="gec-only").get_documents():
        record = {
            "instruction": "Виправте помилки в тексті.", "input": document.source, "output": document.target,
            "original_output": document.source, "revised_output": document.target,
        }
        out.write(json.dumps(record, ensure_ascii=False) + "\n")
