/**
 * Streams a picture to a server, again and again, and shows what becomes of each frame.
 *
 *     npm run example -- HOST:PORT MODEL PICTURE.jpg [FRAMES]
 */
import { readFile } from "node:fs/promises";
import { Client, DulyError, type Stream } from "../src/index.js";

const FRAMES = 30;
const PERIOD_MS = 33;

const [target, model, file, count = String(FRAMES)] = process.argv.slice(2);
if (target === undefined || model === undefined || file === undefined) {
  console.error("usage: npm run example -- HOST:PORT MODEL PICTURE.jpg [FRAMES]");
  process.exit(2);
}

async function send(stream: Stream, picture: Uint8Array): Promise<void> {
  for (let nth = 0; nth < Number(count); nth++) {
    await stream.send(picture);
    await new Promise((resolve) => setTimeout(resolve, PERIOD_MS));
  }
  stream.finish();
}

async function show(stream: Stream): Promise<void> {
  for await (const { frameId, status, latencyNs, outputs, reason } of stream) {
    const result = [...outputs].map(([name, { datatype, shape }]) => `${name} ${datatype}[${shape.join(", ")}]`);
    console.log(`frame ${frameId}: ${status}  ${(latencyNs / 1e6).toFixed(1)} ms  ${result.join(" ") || reason}`);
  }
}

const client = new Client(target);
try {
  const picture = await readFile(file);
  const stream = await client.stream(model, {
    budgetMs: 250,
    followAdvice: true,
    onAdvice: ({ kind, reason }) => console.log(`advice: ${kind}, ${reason}`),
  });
  await Promise.all([send(stream, picture), show(stream)]);
} catch (error) {
  console.error(error instanceof DulyError ? `${error.name} ${error.reason}: ${error.message}` : String(error));
  process.exitCode = 1;
} finally {
  client.close();
}
