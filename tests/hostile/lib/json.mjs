// JSON that is broken, or whole and strange, of about n bytes. Every parser has a shape that it
// hates; the price of each may grow with the length and no faster.
const fill = (n, piece) => piece.repeat(Math.ceil(n / piece.length));
const numbered = (n, piece) => {
    const parts = [];
    for (let i = 0, size = 0; size < n; i++) size += parts[parts.push(piece(i)) - 1].length;
    return parts.join("");
};

export const broken = {
    "unclosed arrays": (n) => fill(n, "["),
    "unclosed objects": (n) => fill(n, "{\"a\":"),
    "empty objects without an end": (n) => `[${fill(n, "{},")}`,
    "empty arrays without an end": (n) => `{"prompt":[${fill(n, "[],")}`,
    "pairs of objects": (n) => fill(n, "[{},{},"),
    "a key twice at the end": (n) => `{${numbered(n, (i) => `"k${i}":${i},`)}"k0":1}`,
    "a key twice in every small object": (n) => `[${fill(n, "{\"a\":1,\"a\":2},")}1]`,
    "one key all the time": (n) => `{${fill(n, "\"a\":1,")}"a":1}`,
    "a bad escape at the end": (n) => `{"prompt":"${fill(n, "a")}\\q"}`,
    "escapes, the last cut": (n) => `{"prompt":"${fill(n, "\\u00e9")}\\u12`,
    "lone surrogates": (n) => `{"prompt":"${fill(n, "\\ud800")}"}`,
    "digits": (n) => `{"max_tokens":${fill(n, "7")}}`,
    "digits after a point": (n) => `{"temperature":0.${fill(n, "3")}}`,
    "digits of an exponent": (n) => `{"temperature":1e${fill(n, "9")}}`,
    "numbers, the last broken": (n) => `{"prompt":[${fill(n, "1,")}01]}`,
    "an unclosed string": (n) => `{"prompt":"${fill(n, "a")}`,
    "many short strings": (n) => `{"prompt":[${fill(n, "\"a\",")}`,
    "many short strings with escapes": (n) => `{"prompt":[${fill(n, "\"\\n\",")}`,
    "many keys": (n) => `{${numbered(n, (i) => `"key${i}":null,`)}`,
    "keys in falling order": (n) => `{${numbered(n, (i) => `"k${1e7 - i}":0,`)}`,
    "keys of one length and one hash's low bits": (n) => `{${numbered(n, (i) => `"${(i * 4096).toString(36).padStart(8, "a")}":0,`)}`,
    "long keys of one beginning": (n) => `{${numbered(n, (i) => `"${"p".repeat(200)}${i}":0,`)}`,
    "a control byte at the end": (n) => `{"prompt":"${fill(n, "b")}\u0001"}`,
    "bad UTF-8 at the end": (n) => Buffer.concat([Buffer.from(`{"prompt":"${fill(n, "é")}`), Buffer.from([0xe9, 0x22, 0x7d])]),
    "blanks": (n) => fill(n, " "),
    "blanks and lines, then junk": (n) => `{${fill(n, " \n\t")}x`,
    "bytes after the value": (n) => `{"prompt":"a"}${fill(n, " ")}x`,
    "true and false": (n) => `[${fill(n, "true,false,")}tru`,
    "nested by turns": (n) => fill(n, "[{\"a\":["),
    "closing brackets": (n) => fill(n, "]"),
};

// Whole JSON: refused or answered, whatever the fields say.
export const whole = {
    "a deep array in a field": (n) => `{"prompt":${"[".repeat(n / 2)}${"]".repeat(n / 2)}}`,
    "prompts of one letter": (n) => `{"max_tokens":1,"prompt":[${fill(n, "\"a\",")}"a"]}`,
    "messages of one letter": (n) => `{"max_tokens":1,"messages":[${fill(n, "{\"role\":\"user\",\"content\":\"a\"},")}{"role":"user","content":"a"}]}`,
    "content parts": (n) => `{"max_tokens":1,"messages":[{"role":"user","content":[${fill(n, "{\"type\":\"text\",\"text\":\"a\"},")}{"type":"text","text":"a"}]}]}`,
    "a bias for everything": (n) => `{"prompt":"a","logit_bias":{${numbered(n, (i) => `"${i}":1,`)}"x":1}}`,
    "stops": (n) => `{"prompt":"a","stop":[${fill(n, "\"aaaa\",")}"b"]}`,
    "stop ids": (n) => `{"prompt":"a","stop_token_ids":[${fill(n, "1,")}1]}`,
    "unknown fields": (n) => `{"prompt":"a",${numbered(n, (i) => `"f${i}":[],`)}"max_tokens":1}`,
    "a schema of names": (n) => `{"prompt":"a","max_tokens":1,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":{${numbered(n, (i) => `"p${i}":{},`)}"z":{}}}}}}`,
    "a schema of one enum": (n) => `{"prompt":"a","max_tokens":1,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"enum":[${numbered(n, (i) => `${i},`)}"z"]}}}}`,
    "a schema of alternatives": (n) => `{"prompt":"a","max_tokens":1,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"anyOf":[${fill(n, "{\"type\":\"integer\"},")}{}]}}}}`,
    "a deep schema": (n) => `{"prompt":"a","max_tokens":1,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":${"{\"type\":\"array\",\"items\":".repeat(n / 24)}{}${"}".repeat(n / 24)}}}}`,
    "references in a row": (n) => `{"prompt":"a","max_tokens":1,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"$ref":"#/$defs/r0","$defs":{${numbered(n, (i) => `"r${i}":{"$ref":"#/$defs/r${i + 1}"},`)}"z":{}}}}}}`,
    "tools": (n) => `{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"tools":[${numbered(n, (i) => `{"type":"function","function":{"name":"f${i}","parameters":{"type":"object","properties":{"a":{"type":"string"}}}}},`)}{"type":"function","function":{"name":"z"}}]}`,
    "a text of one letter": (n) => `{"max_tokens":1,"prompt":"${fill(n, "a")}"}`,
    "a text of blanks": (n) => `{"max_tokens":1,"prompt":"${fill(n, " ")}"}`,
    "a text of marks": (n) => `{"max_tokens":1,"prompt":"${fill(n, "\\u0301")}"}`,
    "a text of control names": (n) => `{"max_tokens":1,"prompt":"${fill(n, "<|endoftext|>")}"}`,
    "a text of half control names": (n) => `{"max_tokens":1,"prompt":"${fill(n, "<|end")}"}`,
    "a text of quotes": (n) => `{"max_tokens":1,"prompt":"${fill(n, "'s")}"}`,
};
