/** What is said to whoever states what cannot be, before anything is sent. */
import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Metadata } from "@grpc/grpc-js";
import { Client, tensor } from "../src/index.js";
import { errorOf } from "../src/errors.js";
import { inputsOf } from "../src/tensors.js";

test("a target that can be no server's", () => {
  for (const target of ["http://host:1", "host", "host:0", "host:70000", "[::1]", ":8500", ""]) {
    assert.throws(() => new Client(target), /expected HOST:PORT/, target);
  }
  for (const target of ["host:1", "[::1]:65535", "unix:/run/duly.sock", "dns:host:1"]) new Client(target).close();
});

test("a token does not leave the machine in clear text", () => {
  assert.throws(() => new Client("robot.local:8500", { token: "t" }), /in clear text/);
  new Client("robot.local:8500", { token: "t", tokenInClearText: true }).close();
  for (const target of ["localhost:1", "127.1.2.3:1", "[::1]:1", "unix:x", "[::ffff:127.0.0.1]:1"]) {
    new Client(target, { token: "t" }).close();
  }
});

test("a token that is none is never shown", () => {
  const file = join(mkdtempSync(join(tmpdir(), "duly-node-")), "token");
  writeFileSync(file, "top secret\n");
  for (const options of [{ token: "top secret" }, { tokenFile: file }]) {
    assert.throws(
      () => new Client("localhost:1", options),
      (error: Error) => !error.message.includes("secret"),
    );
  }
  assert.throws(() => new Client("localhost:1", { tokenFile: "/nowhere" }), /can't be read: ENOENT/);
});

test("files of TLS that do not fit", () => {
  assert.throws(() => new Client("localhost:1", { tls: { ca: "/nowhere" } }), /can't be read/);
  assert.throws(() => new Client("localhost:1", { tls: { cert: "a" } }), /go together/);
  const file = join(mkdtempSync(join(tmpdir(), "duly-node-")), "pem");
  writeFileSync(file, "nothing");
  assert.throws(() => new Client("localhost:1", { tls: { cert: file, key: file } }), /no certificates and key in PEM/);
});

test("values that a frame cannot hold", () => {
  assert.throws(() => inputsOf(new Uint8Array([1, 2, 3])), /no JPEG or PNG/);
  assert.throws(() => inputsOf({ image: new Uint8Array(9) }), /input "image"/);
  assert.throws(() => inputsOf({ image: [1, 2] as never }), /not Array/);
  assert.throws(() => tensor(new Float32Array(3), [2, 2]), /has 4 elements, the array has 3/);
  assert.throws(() => tensor(new Float32Array(3), [], "INT32"), /INT32 is not held in Float32Array/);
});

test("arrays of all kinds say what they are", () => {
  const { tensors } = inputsOf({ a: new Int16Array([-2]), b: tensor(new Uint16Array(4), [2, 2], "FP16") });
  assert.deepEqual(
    tensors.map(({ name, datatype, shape }) => [name, datatype, shape]),
    [
      ["a", 7, []],
      ["b", 10, [2n, 2n]],
    ],
  );
  assert.deepEqual([...(tensors[0]?.data ?? [])], [0xfe, 0xff]);
});

test("details of a status that nobody can read leave its code and message", () => {
  const metadata = new Metadata();
  metadata.set("grpc-status-details-bin", Buffer.from([0x1a, 0x05, 0xff]));
  const error = errorOf({ code: 5, details: "no such model", metadata }, "host:1");
  assert.deepEqual([error.name, error.message, error.reason], ["ModelNotFound", "no such model", ""]);
});
