"""Tiny GLUE folders in the benchmark's layout, written out by hand: file by file, with what must be read from them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Written:
    """Files of a task, and what a reader must find: `train` and `dev` hold (texts, label), `tests` (index, texts)."""

    folder: str
    files: dict[str, str]
    train: list[tuple[tuple[str, ...], float]]
    dev: dict[str, list[tuple[tuple[str, ...], float]]]
    tests: dict[str, list[tuple[str, tuple[str, ...]]]]
    labels: tuple[str, ...]


MRPC_HEADER = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
MNLI_HEADER = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
    "sentence1\tsentence2\tlabel1\tgold_label\n"
)
MNLI_DEV_HEADER = MNLI_HEADER.replace("label1\t", "label1\tlabel2\tlabel3\tlabel4\tlabel5\t")
MNLI_TEST_HEADER = MNLI_HEADER.replace("\tlabel1\tgold_label", "")
PARSES = "( a )\t( b )\t(ROOT a)\t(ROOT b)"
STSB_COLUMNS = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
STSB_ROW = "main-captions\tMSRvid\t2012test\t0001\tnone\tnone"

TASKS = {
    "cola": Written(
        "CoLA",
        {
            "train.tsv": 'gj04\t1\t\tThe "sailors" rode.\ngj04\t0\t*\tThey drank the pub.\nbc01\t1\t\tHe said, "go.\n',
            "dev.tsv": "clc95\t0\t*\tBook the was long.\nclc95\t1\t\tThe book was long.\n",
            "test.tsv": 'index\tsentence\n7\tBill "whistled.\n9\tIt rained.\n',
        },
        [(('The "sailors" rode.',), 1), (("They drank the pub.",), 0), (('He said, "go.',), 1)],
        {"validation": [(("Book the was long.",), 0), (("The book was long.",), 1)]},
        {"CoLA.tsv": [("7", ('Bill "whistled.',)), ("9", ("It rained.",))]},
        ("unacceptable", "acceptable"),
    ),
    "sst2": Written(
        "SST-2",
        {
            "train.tsv": "sentence\tlabel\nhide new secretions \t0\nfunny \t1\n",
            "dev.tsv": "sentence\tlabel\na charming journey . \t1\n",
            "test.tsv": "index\tsentence\n0\tuneasy mishmash .\n",
        },
        [(("hide new secretions ",), 0), (("funny ",), 1)],
        {"validation": [(("a charming journey . ",), 1)]},
        {"SST-2.tsv": [("0", ("uneasy mishmash .",))]},
        ("negative", "positive"),
    ),
    "mrpc": Written(
        "MRPC",
        {
            "train.tsv": MRPC_HEADER
            + '1\t11\t12\tHe said " yes .\tHe agreed .\n0\t13\t14\tIt fell\u2028 .\tIt rose .\n',
            "dev.tsv": MRPC_HEADER + "0\t15\t16\tOne .\tTwo .\n",
            "test.tsv": "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String\n3\t17\t18\tA .\tB .\n",
        },
        [(('He said " yes .', "He agreed ."), 1), (("It fell\u2028 .", "It rose ."), 0)],
        {"validation": [(("One .", "Two ."), 0)]},
        {"MRPC.tsv": [("3", ("A .", "B ."))]},
        ("not_equivalent", "equivalent"),
    ),
    "stsb": Written(
        "STS-B",
        {
            "train.tsv": f"{STSB_COLUMNS}\tscore\n0\t{STSB_ROW}\tA plane.\tAn air plane.\t5.000\n"
            f"1\t{STSB_ROW}\tA flute.\tA bat.\t0.6\n",
            "dev.tsv": f"{STSB_COLUMNS}\tscore\n0\t{STSB_ROW}\tA hat.\tA hard hat.\t0\n",
            "test.tsv": f"{STSB_COLUMNS}\n4\t{STSB_ROW}\tA girl.\tA boy.\n",
        },
        [(("A plane.", "An air plane."), 5.0), (("A flute.", "A bat."), 0.6)],
        {"validation": [(("A hat.", "A hard hat."), 0.0)]},
        {"STS-B.tsv": [("4", ("A girl.", "A boy."))]},
        (),
    ),
    "qqp": Written(
        "QQP",
        {
            "train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
            '5\t1\t2\t"Why?"\tWhy "not?\t0\n6\t3\t4\tHow?\tHow so?\t1\n',
            "dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n7\t5\t6\tWho?\tWhom?\t1\n",
            "test.tsv": "id\tquestion1\tquestion2\n21\tWhen?\tWhere?\n",
        },
        [(('"Why?"', 'Why "not?'), 0), (("How?", "How so?"), 1)],
        {"validation": [(("Who?", "Whom?"), 1)]},
        {"QQP.tsv": [("21", ("When?", "Where?"))]},
        ("not_duplicate", "duplicate"),
    ),
    "mnli": Written(
        "MNLI",
        {
            "train.tsv": MNLI_HEADER
            + "".join(
                f"{i}\t{i}\t{i}n\tfiction\t{PARSES}\tP{i}\tH{i}\t{label}\t{label}\n"
                for i, label in enumerate(("neutral", "entailment", "contradiction"))
            ),
            "dev_matched.tsv": MNLI_DEV_HEADER
            + f"0\t1\t1n\tslate\t{PARSES}\tPm\tHm\tneutral\tneutral\tneutral\tentailment\tentailment\tcontradiction\n",
            "dev_mismatched.tsv": MNLI_DEV_HEADER
            + f"0\t1\t1n\tverbatim\t{PARSES}\tPx\tHx\tneutral\tneutral\tneutral\tneutral\tneutral\tentailment\n",
            "test_matched.tsv": MNLI_TEST_HEADER + f"0\t1\t1\tslate\t{PARSES}\tPt\tHt\n",
            "test_mismatched.tsv": MNLI_TEST_HEADER + f"9\t1\t1\toup\t{PARSES}\tPu\tHu\n",
        },
        [(("P0", "H0"), 1), (("P1", "H1"), 0), (("P2", "H2"), 2)],
        {"validation_matched": [(("Pm", "Hm"), 2)], "validation_mismatched": [(("Px", "Hx"), 0)]},
        {"MNLI-m.tsv": [("0", ("Pt", "Ht"))], "MNLI-mm.tsv": [("9", ("Pu", "Hu"))]},
        ("entailment", "neutral", "contradiction"),
    ),
    "qnli": Written(
        "QNLI",
        {
            "train.tsv": "index\tquestion\tsentence\tlabel\n0\tWhen?\tIn 1990.\tentailment\n"
            "1\tWho?\tNo.\tnot_entailment\n",
            "dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWhat?\tThat.\tnot_entailment\n",
            "test.tsv": "index\tquestion\tsentence\n2\tWhy?\tSo.\n",
        },
        [(("When?", "In 1990."), 0), (("Who?", "No."), 1)],
        {"validation": [(("What?", "That."), 1)]},
        {"QNLI.tsv": [("2", ("Why?", "So."))]},
        ("entailment", "not_entailment"),
    ),
    "rte": Written(
        "RTE",
        {
            "train.tsv": "index\tsentence1\tsentence2\tlabel\r\n0\tRain fell.\tIt was wet.\tentailment\r\n"
            "1\tRain fell.\tIt was dry.\tnot_entailment\r\n",
            "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n",
            "test.tsv": "index\tsentence1\tsentence2\n0\tC.\tD.\n1\tE.\tF.\n",
        },
        [(("Rain fell.", "It was wet."), 0), (("Rain fell.", "It was dry."), 1)],
        {"validation": [(("A.", "B."), 0)]},
        {"RTE.tsv": [("0", ("C.", "D.")), ("1", ("E.", "F."))]},
        ("entailment", "not_entailment"),
    ),
    "wnli": Written(
        "WNLI",
        {
            "train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tI stuck a pin.\tThe pin stuck.\t1\n"
            "1\tHe ran.\tShe ran.\t0\n",
            "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t0\n",
            "test.tsv": "index\tsentence1\tsentence2\n0\tC.\tD.\n",
        },
        [(("I stuck a pin.", "The pin stuck."), 1), (("He ran.", "She ran."), 0)],
        {"validation": [(("A.", "B."), 0)]},
        {"WNLI.tsv": [("0", ("C.", "D."))]},
        ("not_entailment", "entailment"),
    ),
}


def write_task(root: Path, name: str) -> Path:
    folder = root / TASKS[name].folder
    folder.mkdir(parents=True)
    for file, text in TASKS[name].files.items():
        (folder / file).write_bytes(text.encode())
    return folder


def examples(dataset) -> list[tuple[tuple[str, ...], float]]:
    columns = [list(dataset[c]) for c in ("text", "text_pair") if c in dataset.column_names]
    return list(zip(zip(*columns, strict=True), dataset["label"], strict=True))
