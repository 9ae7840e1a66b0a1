export const title = "stop strings, odd bytes and special tokens in a text cost their own request at most";

export async function attack(server, t) {
    const texts = ["\u0000", "\u0001\u0002", "\ufeff", "\u202e", "a\u0301".repeat(500), "👩‍👩‍👧‍👦".repeat(50), "<|endoftext|>", "<|user|><|end|>", " ".repeat(900), "\n".repeat(500), "'".repeat(500), "\ud800", "x".repeat(700), "é".repeat(400), "\uffff", "\u{10ffff}"];
    for (const text of texts) {
        t.answered(await t.complete({ prompt: text, max_tokens: 3 }));
        t.answered(await t.complete({ prompt: "And", max_tokens: 12, stop: [text.slice(0, 60)], n: 2, temperature: 1 }));
        t.answered(await server.post("/tokenize", { prompt: text }));
        t.answered(await server.post("/v1/chat/completions", { messages: [{ role: "user", content: text }, { role: "assistant", content: text }, { role: "user", content: text }], max_tokens: 2 }));
    }
    for (const stop of [["e", "ee", "eee", "eeee"], [" ", "  "], ["a".repeat(4000)], ["<|end|>"], ["the the the"]]) {
        t.answered(await t.complete({ prompt: "e".repeat(300), max_tokens: 60, stop, ignore_eos: true, logit_bias: { 69: 100 } }));
        const s = t.stream({ prompt: "e e e", max_tokens: 60, stop, ignore_eos: true });
        await s.done;
    }
    const bytes = [0xff, 0xfe, 0xc0, 0x80, 0xed, 0xa0, 0x80, 0xf5, 0xe9];
    for (const b of bytes) t.answered(await t.complete(Buffer.concat([Buffer.from("{\"prompt\":\"a"), Buffer.from([b]), Buffer.from("\",\"max_tokens\":1}")])));
}
