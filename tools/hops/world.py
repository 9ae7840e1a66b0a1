"""The world of the hops model: who is whose friend, questions about it, and batches for training.

A text has a line of facts, and then a line for each question:

    Ann's friend is Kim. Bob's friend is Eve. ... Kim's friend is Ann.
    Bob's friend's friend's friend is Zoe.

All rows of a batch have the same layout: the number of facts, and the steps of each question. So a position means the
same in every row, and positions are plain numbers.
"""
import torch

from names import NAMES


class Words:
    """Ids of the words. first: names at the start of a line; inner: names after a space."""

    def __init__(self, tokenizer):
        def one(text):
            ids = tokenizer.encode(text)
            assert len(ids) == 1, (text, ids)
            return ids[0]

        self.first = torch.tensor([one(name) for name in NAMES])
        self.inner = torch.tensor([one(" " + name) for name in NAMES])
        self.s, self.friend, self.is_, self.dot, self.newline = map(one, ("'s", " friend", " is", ".", "\n"))


def draw_friends(rows, people, generator, circle_share):
    """[rows, people]: the index of each person's friend, in one circle of all, or any other person."""
    order = torch.rand(rows, people, generator=generator).argsort(1)
    circle = torch.empty(rows, people, dtype=torch.long).scatter_(1, order, order.roll(-1, 1))
    other = (torch.arange(people) + torch.randint(1, people, (rows, people), generator=generator)) % people
    is_circle = torch.rand(rows, 1, generator=generator) < circle_share
    return torch.where(is_circle, circle, other)


class Batch:
    """Texts, and what is taught about them.

    ids          [rows, T] tokens
    depth        [T] loops that each position shall run
    walk         positions that follow a chain of friends: each " friend" of a question, and its " is"
    steps        for each of walk: how far along the chain it is
    chain        [rows, len(walk), longest + 1] people after 0, 1, ... steps of its question
    fact_at      positions of the friends in the facts; owner: [rows, people] whose friends these are
    answer       positions that an answer follows; answer_walk: their places in walk
    mute         [T] positions further along than `cap`: they run one loop, and teach the prelude only
    """

    def __init__(self, words, rows, people, steps_asked, generator=None, circle_share=0.6, cap=99, lines=False, gap=1):
        """lines: a fact a line. gap: newlines before a question; with 0 the first goes on behind the facts."""
        friend = draw_friends(rows, people, generator, circle_share)
        person = torch.rand(rows, len(NAMES), generator=generator).argsort(1)[:, :people]
        order = torch.rand(rows, people, generator=generator).argsort(1)
        self.owner = person.gather(1, order)
        befriended = person.gather(1, friend.gather(1, order))
        columns, depth, self.fact_at = [], [], []
        self.walk, self.steps, self.answer = [], [], []

        def all_rows(token):
            return torch.full((rows,), token)

        for i in range(people):
            name = words.first if i == 0 or lines else words.inner
            columns += [name[self.owner[:, i]], all_rows(words.s), all_rows(words.friend), all_rows(words.is_),
                        words.inner[befriended[:, i]], all_rows(words.dot)]
            self.fact_at.append(len(columns) - 2)
            if lines and i < people - 1:
                columns.append(all_rows(words.newline))
        columns += [all_rows(words.newline)] * gap
        depth += [1] * len(columns)

        chains = []
        for steps in steps_asked:
            path = [torch.randint(0, people, (rows,), generator=generator)]
            for _ in range(max(steps_asked)):
                path.append(friend.gather(1, path[-1][:, None])[:, 0])
            path = torch.stack([person.gather(1, at[:, None])[:, 0] for at in path], 1)
            columns.append((words.first if gap or chains else words.inner)[path[:, 0]])
            depth.append(1)
            for step in range(1, steps + 1):
                columns += [all_rows(words.s), all_rows(words.friend)]
                depth += [1, step]
                self.walk.append(len(columns) - 1)
                self.steps.append(step)
                chains.append(path)
            columns.append(all_rows(words.is_))
            depth.append(steps)
            self.walk.append(len(columns) - 1)
            self.steps.append(steps)
            chains.append(path)
            self.answer.append(len(columns) - 1)
            end = [words.inner[path[:, steps]], all_rows(words.dot)] + [all_rows(words.newline)] * max(1, gap)
            columns += end
            depth += [1] * len(end)

        self.ids = torch.stack(columns, 1)
        self.depth = torch.tensor(depth)
        self.mute = self.depth > cap
        self.depth[self.mute] = 1
        self.chain = torch.stack(chains, 1)
        last = [sum(steps + 1 for steps in steps_asked[:i + 1]) - 1 for i in range(len(steps_asked))]
        kept = [i for i, steps in enumerate(steps_asked) if steps <= cap]
        self.asked = [steps_asked[i] for i in kept]
        self.answer_walk = [last[i] for i in kept]
        self.answer = [self.answer[i] for i in kept]
