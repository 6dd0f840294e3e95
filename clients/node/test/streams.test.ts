/** Streams to a real server: over a UNIX socket, and over TLS with certificates on both sides. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { Client, tensor, type Outcome } from "../src/index.js";
import { noServer, python, Server } from "./serving.js";

const FOUR = Float32Array.from([1, 2, 3, 4]);

describe("over a UNIX socket", { skip: noServer }, () => {
  let server: Server;
  let client: Client;
  before(async () => {
    server = await Server.start((folder) => ["--listen", `unix:${folder}/duly.sock`]);
    client = new Client(server.address);
  });
  after(async () => {
    client?.close();
    await server?.stop();
  });

  test("each frame has its outcome, and leaving the loop leaves the stream open", async () => {
    const stream = await client.stream("double", { budgetMs: 60_000, backlog: "ALL" });
    for (let nth = 0; nth < 100; nth++) await stream.send(FOUR);
    const outcomes: Outcome[] = [];
    for await (const outcome of stream) if (outcomes.push(outcome) === 10) break;
    stream.finish();
    for await (const outcome of stream) outcomes.push(outcome);
    assert.deepEqual(
      outcomes.map(({ frameId }) => frameId).sort((a, b) => a - b),
      Array.from({ length: 100 }, (_, nth) => nth + 1),
    );
    for (const { ok, outputs } of outcomes) assert(ok && outputs.get("y")?.data[3] === 8);
    assert.equal(await stream.receive(), undefined);
  });

  test("the payload may be changed once it was sent", async () => {
    const stream = await client.stream("double", { budgetMs: 60_000, backlog: "ALL", ordering: "ARRIVAL" });
    const values = new Float32Array(4);
    for (let nth = 1; nth <= 50; nth++) {
      values.fill(nth);
      await stream.send(tensor(values, [4]));
    }
    stream.finish();
    for await (const { frameId, outputs } of stream) assert.equal(outputs.get("y")?.data[0], 2 * frameId);
  });

  test("nothing is lost while nobody reads, and what is held is bounded", async () => {
    const stream = await client.stream("double", { budgetMs: 60_000, backlog: "ALL" });
    const credit = stream.opened.framesInFlightMax;
    const sent: number[] = [];
    // Ten times the credit: had nobody stopped reading from the wire, all of them would find room.
    for (let round = 0; sent.length < 10 * credit && round < 200; round++) {
      for (let id = stream.trySend(FOUR); id !== undefined; id = stream.trySend(FOUR)) sent.push(id);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    assert(sent.length < 10 * credit);
    stream.finish();
    const answered: number[] = [];
    for await (const { frameId, status } of stream) {
      assert(["ON_TIME", "SHED"].includes(status), status);
      answered.push(frameId);
    }
    assert.deepEqual(
      answered.sort((a, b) => a - b),
      sent,
    );
  });

  test("a frame that the server could not read harms nobody", async () => {
    const stream = await client.stream("double", { budgetMs: 60_000 });
    await assert.rejects(stream.send(new Float32Array(stream.opened.messageBytesMax / 4)), /the server reads up to/);
    await stream.send(FOUR);
    assert.equal((await stream.receive())?.frameId, 1);
    stream.close();
    await assert.rejects(stream.send(FOUR), /finished or closed/);
  });

  test("closing the client ends what waits for outcomes", async () => {
    const other = new Client(server.address);
    const stream = await other.stream("double");
    const waiting = stream.receive();
    other.close();
    assert.equal(await waiting, undefined);
    await assert.rejects(other.stream("double"), /closed/);
  });
});

describe("over TLS", { skip: noServer }, () => {
  let server: Server;
  let target: string;
  before(async () => {
    server = await Server.start((folder) => {
      python(["-m", "duly.cli", "certs", "dev", `${folder}/certs`, "--host", "localhost"]);
      python(["-m", "duly.cli", "certs", "dev", `${folder}/others`, "--host", "localhost"]);
      const certs = `${folder}/certs`;
      const tls = [
        "--tls-cert",
        `${certs}/server.pem`,
        "--tls-key",
        `${certs}/server.key`,
        "--tls-client-ca",
        `${certs}/ca.pem`,
      ];
      return ["--listen", "127.0.0.1:0", ...tls];
    });
    target = server.address.replace("127.0.0.1", "localhost");
  });
  after(() => server?.stop());

  const files = (folder: string) => {
    const path = `${server.folder}/${folder}`;
    return { ca: `${path}/ca.pem`, cert: `${path}/client.pem`, key: `${path}/client.key` };
  };

  async function served(client: Client): Promise<string | undefined> {
    const stream = await client.stream("double", { budgetMs: 60_000 });
    await stream.send(FOUR);
    const outcome = await stream.receive();
    stream.close();
    return outcome?.status;
  }

  test("with certificates that fit, and a name other than the host's", async () => {
    for (const [at, serverName] of [
      [target, undefined],
      [server.address, "localhost"],
    ] as const) {
      const client = new Client(at, { tls: { ...files("certs"), ...(serverName && { serverName }) } });
      assert.equal(await served(client), "ON_TIME");
      client.close();
    }
  });

  test("with a server of a CA that is not trusted, and without a certificate of its own", async () => {
    const certs = files("certs");
    for (const tls of [{ ...certs, ca: files("others").ca }, { ca: certs.ca }]) {
      const client = new Client(target, { tls, openTimeoutMs: 1000 });
      await assert.rejects(served(client), { name: "ServerUnavailable" });
      client.close();
    }
  });

  test("files that change are read again for the next stream", async () => {
    const [paths, good, bad] = [files("replaced"), files("certs"), files("others")];
    python(["-m", "duly.cli", "certs", "dev", `${server.folder}/replaced`, "--host", "localhost"]);
    const put = (from: typeof good): void => {
      for (const file of ["ca", "cert", "key"] as const) writeFileSync(paths[file], readFileSync(from[file]));
    };
    put(bad);
    const client = new Client(target, { tls: paths, openTimeoutMs: 1000 });
    await assert.rejects(served(client), { name: "ServerUnavailable" });
    put(good);
    assert.equal(await served(client), "ON_TIME");
    client.close();
  });
});
