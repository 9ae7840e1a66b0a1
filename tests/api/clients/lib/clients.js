// Every client that the cases run through. A new client is a file beside this one and a row here.
import { aiAnthropic, aiChat, aiCompatible, aiResponses } from "./aisdk.js";
import { anthropic } from "./anthropic.js";
import { continueChat } from "./continue.js";
import { langchain, langchainResponses } from "./langchain.js";
import { openai4, openai7, responses7 } from "./openai.js";

export const clients = [openai7, openai4, responses7, aiResponses, aiChat, aiCompatible, langchain, langchainResponses, continueChat, anthropic, aiAnthropic];
