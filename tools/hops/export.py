"""Writes the folder that Fathom serves: weights, configs, held-out questions, and the answers that tests expect.

usage: export.py OUT_DIR [--from FOLDER]

OUT_DIR has tokenizer.json and train.pt. With --from the weights of that model folder are taken in place of train.pt.
"""
import argparse
import json

import torch

from model import Config, Hops, open_folder, save_folder
from names import NAMES
from tokenizer import END, Tokenizer
from world import Batch, Words

HELD_OUT_SEED = 20261126  # training draws no world from this seed
QUESTIONS, MOST_STEPS = 200, 8


def draw_question(tools, steps, people, generator, circle_share):
    """No name comes twice on the way, so that stopping early is never right by luck."""
    tokenizer, words = tools
    while True:
        batch = Batch(words, 1, people, [steps], generator, circle_share)
        chain = batch.chain[0, -1, :steps + 1].tolist()
        if len(set(chain)) == steps + 1:
            break
    ids = batch.ids[0, :batch.answer[0] + 1].tolist()
    return {"prompt": tokenizer.decode(ids), "answer": " " + NAMES[chain[-1]], "hops": steps}


def write_questions(folder, tools, generator):
    """Half of the worlds are one circle of friends, half are any map."""
    with open(f"{folder}/questions.jsonl", "w") as file:
        for i in range(QUESTIONS):
            steps, circle = 1 + i % MOST_STEPS, i // MOST_STEPS % 2 == 0
            fewest = max(9, steps + 1)
            people = int(torch.randint(fewest, fewest + 4, (1,), generator=generator))
            file.write(json.dumps(draw_question(tools, steps, people, generator, float(circle))) + "\n")


def answer(model, tools, prompt, policy):
    """Three tokens, the likeliest each time, and what all positions ran."""
    tokenizer, n = tools[0], len(prompt)
    ids = torch.tensor([prompt])
    for _ in range(3):
        logits, depth = model(ids, policy=policy)
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    logits, depth = model(ids, policy=policy)
    best = logits.topk(2, -1).values
    lead = (best[..., 0] - best[..., 1])[0, n - 1:n + 2].min().item()
    return {"ids": ids[0].tolist(), "depths": depth[0].tolist(), "text": tokenizer.decode(ids[0].tolist()),
            "smallest_lead": round(lead, 4)}


def expected(model, tools, steps, generator):
    tokenizer = tools[0]
    row = draw_question(tools, steps, max(9, steps + 1), generator, 1.0)
    prompt = row["prompt_ids"] = tokenizer.encode(row["prompt"])
    for policy in ("exact", "last"):
        row[policy] = answer(model, tools, prompt, policy)
        first = tokenizer.decode(row[policy]["ids"][len(prompt):len(prompt) + 1])
        print(f"{steps} steps, {policy}: {first!r}, {'right' if first == row['answer'] else 'WRONG'}")
    row["at_most"] = {}
    for loops in range(1, model.config.max_loop_iters + 1):
        logits, depth = model(torch.tensor([prompt]), loops=loops, policy="last")
        row["at_most"][loops] = {"answer": tokenizer.decode(logits[0, -1:].argmax(-1).tolist()),
                                 "depth": int(depth[0, -1])}
    return row


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=1)


def trained(path):
    model = Hops(Config()).eval()
    prefix = "net."
    state = torch.load(path)["training"]
    model.load_state_dict({name[len(prefix):]: tensor for name, tensor in state.items() if name.startswith(prefix)})
    return model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--from", dest="source", help="a model folder")
    opts = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer(f"{opts.out}/tokenizer.json")
    words = Words(tokenizer)
    tools = tokenizer, words
    model = open_folder(opts.source) if opts.source else trained(f"{opts.out}/train.pt")
    save_folder(opts.out, model)
    write_json(f"{opts.out}/tokenizer_config.json",
               {"pad_token": END, "eos_token": END, "model_max_length": model.config.max_seq_len})
    write_json(f"{opts.out}/generation_config.json",
               {"eos_token_id": [words.newline, tokenizer.special[END]], "temperature": 0.0})
    model = open_folder(opts.out)  # as stored, in bfloat16
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    write_questions(opts.out, tools, generator)
    with torch.no_grad():
        rows = [expected(model, tools, steps, generator) for steps in (1, 2, 4, 6, MOST_STEPS)]
    write_json(f"{opts.out}/expected.json", {"greedy": rows})


if __name__ == "__main__":
    main()
