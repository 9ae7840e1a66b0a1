// One server with the demo model for the tests of a file, and the official package's client.
import { after, before } from "node:test";
import OpenAI from "openai";
import { Server } from "../../http/lib/server.mjs";

export const model = "demo";
export let server, client;
before(async () => {
    server = await Server.start([], { device: "cpu" });
    server.shared = true; // outlives each test; the hook below stops it
    client = new OpenAI({ apiKey: "unused-key", baseURL: `${server.url}/v1`, maxRetries: 0, timeout: 600000 });
});
after(() => server.stop());
