/** A real server for tests, in a process of its own: `duly serve` of this checkout with the models of the suite. */
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

const ROOT = resolve(import.meta.dirname, "../../../..");
const PYTHON = process.env["PYTHON"] ?? join(ROOT, ".venv/bin/python");

/** Why there can be no server; false: there can. */
export const noServer = existsSync(PYTHON) ? false : `${PYTHON} is not there: make setup, or set PYTHON`;

export class Server {
  readonly #process: ChildProcess;

  private constructor(
    readonly folder: string,
    readonly address: string,
    started: ChildProcess,
  ) {
    this.#process = started;
  }

  /** Starts a server with these options; `prepare` writes what they name into the folder. */
  static async start(options: (folder: string) => string[]): Promise<Server> {
    const folder = mkdtempSync(join(tmpdir(), "duly-node-"));
    const imports = "from pathlib import Path; from clients.conformance.models import NAMES, write_models";
    python(["-c", `${imports}; write_models(Path("${folder}/models"), NAMES)`]);
    const started = spawn(
      PYTHON,
      [
        "-m",
        "duly.cli",
        "serve",
        "--models",
        `${folder}/models`,
        "--threads",
        "1",
        "--log-format",
        "json",
        ...options(folder),
      ],
      { cwd: ROOT, stdio: ["ignore", "ignore", "pipe"] },
    );
    const said: string[] = [];
    for await (const line of createInterface({ input: started.stderr as NonNullable<typeof started.stderr> })) {
      said.push(line);
      const entry = JSON.parse(line) as { event: string; address: string };
      if (entry.event === "serving") {
        started.stderr?.resume();
        return new Server(folder, entry.address, started);
      }
    }
    throw new Error(`the server ended before it served: ${said.join("\n")}`);
  }

  async stop(): Promise<void> {
    const ended = new Promise((done) => this.#process.once("exit", done));
    this.#process.kill("SIGKILL");
    await ended;
    rmSync(this.folder, { recursive: true });
  }
}

/** Runs Python in this checkout. */
export function python(options: string[]): void {
  const { status, stderr } = spawnSync(PYTHON, options, { cwd: ROOT, encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
}
