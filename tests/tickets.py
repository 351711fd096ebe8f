"""Made-up support tickets in seven unequal classes, between greetings and closing lines in twenty languages.

    python tests/tickets.py FOLDER      # writes train.csv (1,080 rows) and test.csv (300), always the same ones

What a ticket is about stands in a sentence or two of English among lines that say nothing; its words are shared by
several classes, one in fifty labels is wrong, and many words are misspelt or left out.
"""

import csv
import sys
from pathlib import Path

import numpy as np

SEED = 7_301
TRAIN, TEST = 1_080, 300
SHARES = {
    "billing": 0.325,
    "delivery": 0.21,
    "login": 0.155,
    "defect": 0.125,
    "returns": 0.085,
    "feature": 0.06,
    "cancel": 0.04,
}
WRONG, MISSPELT, LEFT_OUT = 0.02, 0.2, 0.3

GREETINGS = (
    "Hello,",
    "Bonjour,",
    "Guten Tag,",
    "Buenos días,",
    "Buongiorno,",
    "Olá,",
    "Goedendag,",
    "God dag,",
    "Hej,",
    "Hyvää päivää,",
    "Dzień dobry,",
    "Dobrý den,",
    "Jó napot,",
    "Bună ziua,",
    "Merhaba,",
    "Selamat pagi,",
    "Xin chào,",
    "Zdravo,",
    "Labas,",
    "Tere,",
)
CLOSINGS = (
    "Thanks a lot",
    "Merci d'avance",
    "Vielen Dank",
    "Muchas gracias",
    "Grazie mille",
    "Muito obrigado",
    "Alvast bedankt",
    "På forhånd takk",
    "Tack så mycket",
    "Kiitos etukäteen",
    "Z góry dziękuję",
    "Děkuji předem",
    "Előre is köszönöm",
    "Mulțumesc anticipat",
    "Teşekkür ederim",
    "Terima kasih",
    "Cảm ơn nhiều",
    "Hvala unaprijed",
    "Ačiū iš anksto",
    "Ette tänades",
)
ASIDES = (
    "My customer number is {n}.",
    "I wrote to you on {day} already.",
    "This concerns order {n}.",
    "I am using {device}.",
    "A colleague of mine has the same question.",
    "Please call me back if that is easier.",
    "I have been with you since {year}.",
    "I could not find an answer in the help pages.",
    "It started on {day}.",
    "You can reach me in the evening.",
    "The reference is {n}.",
    "I hope this is the right address.",
    "This is the second time.",
    "I attach a picture.",
)
PARTS = {
    "n": ("48213", "A-77120", "990412", "KX-2031", "55-1907"),
    "day": ("Monday", "the 3rd", "last Friday", "14 May", "the weekend"),
    "device": ("a tablet", "Windows", "an older phone", "the browser", "a new laptop"),
    "year": ("2016", "2019", "2021", "last spring"),
    "thing": (
        "kettle",
        "desk lamp",
        "backpack",
        "headphones",
        "router",
        "coffee grinder",
        "winter jacket",
        "keyboard",
        "blender",
    ),
    "amount": ("39 euros", "twice the price", "129.90", "a fee of 7.50", "20 more than agreed"),
    "card": ("card", "bank account", "credit card", "PayPal account"),
    "span": ("a week", "ten days", "since Tuesday", "a fortnight", "five working days"),
}
SENTENCES = {
    "billing": (
        "I was charged {amount} for the {thing} and cannot see why.",
        "The invoice for my {thing} shows the wrong sum.",
        "You took {amount} from my {card} a second time.",
        "The VAT on the bill for the {thing} is not right.",
        "Where do I find the receipt for the {thing}?",
        "My {card} was debited although I had paid by transfer.",
        "The discount code was not taken off the total of {amount}.",
        "Please correct the address on invoice {n}.",
        "A reminder asks for {amount} that I have settled long ago.",
        "Why does my statement list {amount} for {year}?",
        "I would like to pay the {thing} in instalments; how is that charged?",
    ),
    "delivery": (
        "The {thing} should have come {span} ago and has not arrived.",
        "The courier left my {thing} at the wrong house.",
        "Tracking has said 'in transit' for {span}.",
        "Can the parcel with the {thing} go to another address?",
        "Only one of two boxes came, the {thing} is missing.",
        "When will the {thing} be shipped?",
        "The driver did not ring and took the {thing} back to the depot.",
        "The package for order {n} seems to be lost.",
        "I waited at home on {day}, and nobody brought the {thing}.",
        "Is there express shipping for the {thing}?",
    ),
    "login": (
        "I cannot sign in any more; it says that my password is wrong.",
        "The link to reset my password never arrives.",
        "My account has been locked since {day}.",
        "The code for the second step comes too late to get in.",
        "I have a new phone number and cannot confirm that it is me.",
        "The app throws me out as soon as I enter my user name.",
        "Two accounts exist under my address and I get into neither.",
        "How do I change the email that I log on with?",
        "After the update the site does not remember who I am on {device}.",
    ),
    "defect": (
        "The {thing} stopped working after {span}.",
        "The {thing} makes a burning smell when switched on.",
        "One side of the {thing} is cracked and the lid does not close.",
        "My {thing} no longer turns on.",
        "The battery of the {thing} is empty after minutes.",
        "There is a rattling noise in the {thing} since {day}.",
        "The zip of the {thing} broke on the first day.",
        "The display of the {thing} flickers and goes dark.",
        "Is the fault of my {thing} covered by the warranty?",
    ),
    "returns": (
        "I want to send the {thing} back; it is not what I expected.",
        "Which label do I use to return the {thing}?",
        "The {thing} is too small, can I exchange it for a larger one?",
        "I sent the {thing} back {span} ago and have heard nothing.",
        "Is it possible to give back the {thing} without its box?",
        "How many days do I have to return the {thing}?",
        "I ordered two of the {thing} by mistake and would like to give one back.",
    ),
    "feature": (
        "It would be great if the app had a dark mode.",
        "Could you add a wish list to the shop?",
        "Please let us sort the {thing} pages by size.",
        "I miss a way to export my orders as a table.",
        "Will there be a version for {device}?",
        "A filter for colours would help when looking for a {thing}.",
        "Have you thought of a calendar that shows all orders?",
    ),
    "cancel": (
        "Please cancel my subscription at the end of the month.",
        "I want to close my account for good.",
        "Stop the order of the {thing} before it leaves, I no longer need it.",
        "How do I end the membership that renews in {year}?",
        "I withdraw from the contract of {day}.",
        "Do not renew my plan, I am leaving.",
    ),
}


def make_tickets(count: int, generator: np.random.Generator) -> list[tuple[str, str]]:
    """Return (text, label) pairs with the classes in their shares, shuffled."""
    names = list(SHARES)
    counts = np.floor(np.array(list(SHARES.values())) * count).astype(int)
    counts[0] += count - counts.sum()
    labels = generator.permutation(np.repeat(names, counts))
    rows = []
    for label in labels:
        text = _ticket(str(label), generator)
        wrong = generator.random() < WRONG
        rows.append((text, str(generator.choice([n for n in names if n != label])) if wrong else str(label)))
    return rows


def write_tickets(folder: Path) -> tuple[Path, Path]:
    """Write train.csv and test.csv with columns text and label, and return their paths."""
    generator = np.random.default_rng(SEED)
    rows = make_tickets(TRAIN + TEST, generator)
    order = generator.permutation(len(rows))
    paths = folder / "train.csv", folder / "test.csv"
    for path, chosen in zip(paths, (order[:TRAIN], order[TRAIN:]), strict=True):
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(rows[i] for i in chosen)
    return paths


def _ticket(label: str, generator: np.random.Generator) -> str:
    def pick(options: tuple[str, ...]) -> str:
        return options[generator.integers(len(options))]

    language = generator.integers(len(GREETINGS))
    about = [pick(SENTENCES[label]) for _ in range(1 if generator.random() < 0.9 else 2)]
    asides = [pick(ASIDES) for _ in range(generator.integers(2, 6))]
    body = [str(sentence) for sentence in generator.permutation(about + asides)]
    text = " ".join([GREETINGS[language], *body, CLOSINGS[language]])
    for name, options in PARTS.items():
        while f"{{{name}}}" in text:
            text = text.replace(f"{{{name}}}", pick(options), 1)
    words = [word for word in text.split() if generator.random() >= LEFT_OUT]
    return " ".join(_misspell(word, generator) for word in words) or GREETINGS[language]


def _misspell(word: str, generator: np.random.Generator) -> str:
    if len(word) < 5 or generator.random() >= MISSPELT:
        return word
    place = int(generator.integers(1, len(word) - 2))
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    write_tickets(Path(sys.argv[1]))
