/** What a client proves itself with: the files of TLS, and a bearer token. Files are read again for every opening. */
import { readFileSync } from "node:fs";
import { createSecureContext } from "node:tls";
import { credentials, type ChannelCredentials } from "@grpc/grpc-js";
import { isLocal } from "./target.js";

const TOKEN_BYTES_MAX = 16 * 1024;

/** How to speak TLS with a server. All paths are of PEM files. */
export interface Tls {
  /** The CA that the server's certificate must be of; not stated: those that Node trusts. */
  readonly ca?: string;
  /** The client's own certificate, where the server asks for one, and its private key. */
  readonly cert?: string;
  readonly key?: string;
  /** The name that the server's certificate must have; not stated: the host of the target. */
  readonly serverName?: string;
}

/** What the files of TLS hold now. */
export interface TlsFiles {
  readonly ca: Buffer | null;
  readonly cert: Buffer | null;
  readonly key: Buffer | null;
}

/** Throws TypeError where a file cannot be read, or where they do not hold what they should. */
export function readTls({ ca, cert, key }: Tls): TlsFiles {
  if ((cert === undefined) !== (key === undefined)) throw new TypeError("tls: cert and key go together");
  const files = { ca: read(ca), cert: read(cert), key: read(key) };
  try {
    createSecureContext({ ca: files.ca ?? undefined, cert: files.cert ?? undefined, key: files.key ?? undefined });
  } catch {
    throw new TypeError(`tls: ${[ca, cert, key].filter(Boolean).join(", ")}: no certificates and key in PEM that fit`);
  }
  return files;
}

export function sameFiles(one: TlsFiles, other: TlsFiles): boolean {
  return (["ca", "cert", "key"] as const).every((file) => {
    const [a, b] = [one[file], other[file]];
    return a === null || b === null ? a === b : a.equals(b);
  });
}

export function channelCredentials(files: TlsFiles | undefined): ChannelCredentials {
  return files === undefined ? credentials.createInsecure() : credentials.createSsl(files.ca, files.key, files.cert);
}

/** A bearer token, from a text or from a file. */
export class Token {
  #text: string;
  readonly #file: string | undefined;

  /** Throws TypeError, which never shows it, where there is no token. */
  constructor(text: string | undefined, file: string | undefined) {
    if (text !== undefined && file !== undefined) throw new TypeError("token and tokenFile: state one of them");
    this.#file = file;
    this.#text = file === undefined ? checked(text, "token") : this.#fromFile(file);
  }

  /** The token as it is now. While its file cannot be read, it is the last one that could. */
  now(): string {
    if (this.#file !== undefined) {
      try {
        this.#text = this.#fromFile(this.#file);
      } catch {
        // It is being replaced.
      }
    }
    return this.#text;
  }

  #fromFile(file: string): string {
    return checked(read(file)?.toString("latin1").trim(), `tokenFile: ${file}`);
  }
}

/** Throws TypeError where a token would cross a network in clear text, unless that is wanted. */
export function checkClearText(target: string, allowed: boolean): void {
  if (allowed || isLocal(target)) return;
  throw new TypeError(
    `the token would cross the network to ${target} in clear text: use tls, or say tokenInClearText: true`,
  );
}

function checked(text: string | undefined, place: string): string {
  if (text === undefined || text.length > TOKEN_BYTES_MAX || !/^[!-~]+$/.test(text)) {
    throw new TypeError(`${place}: should be one token, without spaces and other signs than ASCII has`);
  }
  return text;
}

function read(path: string | undefined): Buffer | null {
  if (path === undefined) return null;
  try {
    return readFileSync(path);
  } catch (error) {
    throw new TypeError(`${path}: can't be read: ${(error as NodeJS.ErrnoException).code}`);
  }
}
