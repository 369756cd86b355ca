// Calls the official client as it is told: a line of JSON for each call, and one for its answer.
import { Client, Receiver, anthropic, openai, resend } from "@upstash/qstash";
import { SignJWT } from "jose";
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";

const providers = { anthropic, openai, resend };

const read = (line) =>
  JSON.parse(line, (_, value) => {
    if (value && value.$date) return new Date(value.$date);
    if (value && value.$provider) return providers[value.$provider]({ token: "t" });
    if (value && value.$bytes) return Buffer.from(value.$bytes, "base64");
    return value;
  });

// As the client's own tests sign.
const sign = ({ key, url, body }) =>
  new SignJWT({ body: createHash("sha256").update(body).digest("base64url") })
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setIssuer("Upstash")
    .setSubject(url)
    .setIssuedAt()
    .setNotBefore(Math.floor(Date.now() / 1000))
    .setExpirationTime("5m")
    .setJti(`jwt_${Date.now()}`)
    .sign(new TextEncoder().encode(key));

let client;
const own = {
  client: (options) => { client = new Client({ retry: false, ...options }); return null; },
  verify: ({ current, next, ...rest }) => new Receiver({ currentSigningKey: current, nextSigningKey: next }).verify(rest),
  sign,
};

const called = ({ call, args, queue, chat }) => {
  if (own[call]) return own[call](...args);
  let on = client;
  if (queue) on = client.queue({ queueName: queue });
  if (chat) on = client.chat();
  const path = call.split(".");
  const name = path.pop();
  for (const part of path) on = on[part];
  return on[name](...args);
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { answer: (await called(read(line))) ?? null };
  } catch (error) {
    answer = { error: error.message, name: error.name, status: error.status ?? null };
  }
  console.log(JSON.stringify(answer));
}
