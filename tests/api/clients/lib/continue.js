// Continue's adapters: what its editor extension sends, streamed with usage always.
import { constructLlmApi } from "@continuedev/openai-adapters";
import * as z from "zod/v4";
import { chatBody, joinChat, readChat } from "./wire.js";

export const continueChat = {
    name: "@continuedev/openai-adapters", efforts: ["minimal", "low", "medium", "high"], can: ["seed", "stop", "n", "logprobs", "parallel"],
    status: (e) => e.status, aborted: (e) => /abort/i.test(`${e.constructor.name} ${e.name} ${e.message}`),
    connect({ url, key = "unused-key" }) {
        const api = constructLlmApi({ provider: "openai", apiKey: key, apiBase: `${url}/v1/` });
        const never = new AbortController().signal;
        const format = (s) => ({ type: "json_schema", json_schema: { name: s.name, strict: true, schema: z.toJSONSchema(s.zod) } });
        const bodyOf = (q, stream) => ({ ...chatBody(q), stream, ...(q.schema ? { response_format: format(q.schema) } : {}) });
        return {
            api,
            ask: async (q) => readChat(await api.chatCompletionNonStream(bodyOf(q, false), q.signal ?? never)),
            stream: (q, onText) => joinChat(api.chatCompletionStream(bodyOf(q, true), q.signal ?? never), onText),
            embed: (model) => api.embed({ model, input: ["x"] }),
        };
    },
};
