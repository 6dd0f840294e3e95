/** One connection to a server, any number of streams over it. */
import { create } from "@bufbuild/protobuf";
import { Client as Channel, type ClientOptions as ChannelOptions } from "@grpc/grpc-js";
import { Connection, type Receiver } from "./connection.js";
import {
  channelCredentials,
  checkClearText,
  readTls,
  sameFiles,
  Token,
  type Tls,
  type TlsFiles,
} from "./credentials.js";
import type { DulyError } from "./errors.js";
import { sendFeedback, type Feedback, type FeedbackResult } from "./feedback.js";
import {
  BacklogPolicy as WireBacklog,
  GapPolicy as WireGap,
  OnTimeFloorSchema,
  OpenStreamSchema,
  Ordering as WireOrdering,
  StreamClass as WireClass,
} from "./gen/duly/v1/inference_pb.js";
import { nanoseconds, Stream } from "./stream.js";
import { checkTarget, isLocal } from "./target.js";
import type { Advice, BacklogPolicy, GapPolicy, Ordering, StreamClass } from "./types.js";
import type { WallClock } from "./wall-clock.js";

const CHANNEL_OPTIONS: ChannelOptions = {
  "grpc.max_receive_message_length": -1, // the server bounds what it sends
  "grpc.enable_retries": 0, // a frame is never sent twice
  // Clock pings make data flow each 10 s, so that no server takes keepalive at this pace for abuse.
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 5_000,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 5_000,
  "grpc.use_local_subchannel_pool": 1, // each client has a connection and a backoff of its own
};

export interface ClientOptions {
  /** How to speak TLS; not stated: plain text. */
  readonly tls?: Tls;
  /** The bearer token that each call shows, or a file with it, which is read again for every opening. */
  readonly token?: string;
  readonly tokenFile?: string;
  /** True: a token may cross a network without TLS. */
  readonly tokenInClearText?: boolean;
  /** False: streams do not open again when the connection is lost, and nothing is tried again at first either. */
  readonly reconnect?: boolean;
  /** How many failed tries in a row end a stream; not stated: it never gives up. */
  readonly reconnectTriesMax?: number;
  /** How long a stream may take to open, ms; 10 s where not stated. What may pass is tried again until then. */
  readonly openTimeoutMs?: number;
}

/** What is wanted of a stream. What is not stated is as the model's author set it. */
export interface StreamOptions {
  /** How long after capture a result is worth having, ms. */
  readonly budgetMs?: number;
  /** Name for the server's logs. */
  readonly name?: string;
  readonly version?: string;
  /** Criticality: frames of more critical streams run first and are shed last. */
  readonly streamClass?: StreamClass;
  /** What waits while the model is busy; with KEEP_LAST the newest `backlogFrames`. */
  readonly backlog?: BacklogPolicy;
  readonly backlogFrames?: number;
  /** The order of outcomes. */
  readonly ordering?: Ordering;
  /** Time between frames, ms. A stream that states it is let in only if it fits. */
  readonly periodMs?: number;
  /** Names of the outputs wanted; not stated: all. */
  readonly outputs?: readonly string[];
  /** What a stateful model does after frames that were not run. */
  readonly gap?: GapPolicy;
  /** The least accurate variant that will do. */
  readonly variantLowest?: string;
  /** [m, k]: of any k consecutive frames m shall be on time, overload or not. */
  readonly floor?: readonly [number, number];
  /** Called with each advice of the server. */
  readonly onAdvice?: (advice: Advice) => void;
  /** True: frames that come faster than the server advises are SUPERSEDED here and not sent, unless they must run. */
  readonly followAdvice?: boolean;
}

export class Client {
  readonly #target: string;
  readonly #options: ClientOptions;
  readonly #token: Token | undefined;
  readonly #streams = new Set<Stream>();
  #channel: Channel | undefined;
  #files: TlsFiles | undefined;
  #shown = "";
  #closed = false;

  /**
   * A client of the server at `target`: "HOST:PORT" or "unix:PATH". It connects when its first stream opens. Throws
   * TypeError where `target` can be no server's, where a file of TLS or a token cannot be used, or where the token
   * would leave this machine in clear text.
   */
  constructor(target: string, options: ClientOptions = {}) {
    checkTarget(target);
    this.#target = target;
    this.#options = options;
    if (options.token !== undefined || options.tokenFile !== undefined) {
      this.#token = new Token(options.token, options.tokenFile);
      if (options.tls === undefined) checkClearText(target, options.tokenInClearText ?? false);
    }
    if (options.tls !== undefined) this.#files = readTls(options.tls);
  }

  /**
   * Opens a stream of frames to `model`. A server that starts, drains or is busy is tried again within `openTimeoutMs`.
   * Rejects with a DulyError where it is refused for good or does not open in time.
   */
  async stream(model: string, options: StreamOptions = {}): Promise<Stream> {
    const { floor } = options;
    const request = create(OpenStreamSchema, {
      model,
      version: options.version ?? "",
      streamName: options.name ?? "",
      streamClass: numberOf(WireClass, "streamClass", options.streamClass),
      backlogPolicy: numberOf(WireBacklog, "backlog", options.backlog),
      backlogFrames: options.backlogFrames ?? 0,
      ordering: numberOf(WireOrdering, "ordering", options.ordering),
      defaultBudgetNano: nanoseconds("budgetMs", options.budgetMs),
      expectedPeriodNano: nanoseconds("periodMs", options.periodMs),
      outputs: [...(options.outputs ?? [])],
      gapPolicy: numberOf(WireGap, "gap", options.gap),
      variantLowest: options.variantLowest ?? "",
      ...(floor && { floor: create(OnTimeFloorSchema, { frames: floor[0], window: floor[1] }) }),
    });
    const stream = await Stream.open({
      connect: (wall, receiver) => this.#connect(wall, receiver),
      mayRecover: (error) => this.#mayRecover(error),
      request,
      onAdvice: options.onAdvice,
      followAdvice: options.followAdvice ?? false,
      reconnect: this.#options.reconnect ?? true,
      reconnectTriesMax: this.#options.reconnectTriesMax ?? Infinity,
      openTimeoutMs: this.#options.openTimeoutMs ?? 10_000,
    });
    if (this.#closed) stream.close();
    else this.#streams.add(stream);
    void stream.closed.then(() => this.#streams.delete(stream));
    return stream;
  }

  /**
   * Says what was right for frames that were answered, whenever that is known: the server joins it with what it keeps
   * of them. Resolves with what became of each label, in their order. Many go in several messages; sending one again is
   * safe, as the newest label of a frame counts. Rejects with a DulyError, with TypeError or RangeError where a label
   * can be none.
   */
  async feedback(items: readonly Feedback[]): Promise<FeedbackResult[]> {
    if (this.#closed) throw new TypeError("the client is closed");
    return sendFeedback(this.#open(), this.#target, this.#token?.now() ?? "", items);
  }

  /** Ends the connection and every stream over it. */
  close(): void {
    this.#closed = true;
    for (const stream of this.#streams) stream.close();
    this.#channel?.close();
    this.#channel = undefined;
  }

  #connect(wall: WallClock, receiver: Receiver): Connection {
    if (this.#closed) throw new TypeError("the client is closed");
    this.#shown = this.#token?.now() ?? "";
    return new Connection(this.#open(), this.#target, this.#shown, wall, receiver);
  }

  /** The channel; another one where the files of TLS have changed. The one before lives as long as its streams. */
  #open(): Channel {
    const { tls } = this.#options;
    if (tls !== undefined && this.#files !== undefined) {
      try {
        const files = readTls(tls);
        if (!sameFiles(files, this.#files)) {
          this.#files = files;
          this.#channel?.close();
          this.#channel = undefined;
        }
      } catch {
        // The files are being replaced: until they fit together, those before will do.
      }
    }
    this.#channel ??= new Channel(this.#target, channelCredentials(this.#files), {
      ...CHANNEL_OPTIONS,
      ...(isLocal(this.#target) && { "grpc.enable_http_proxy": 0 }), // no proxy reaches this machine
      ...(tls?.serverName !== undefined && {
        "grpc.ssl_target_name_override": tls.serverName,
        "grpc.default_authority": tls.serverName,
      }),
    });
    return this.#channel;
  }

  /** A refused token may be tried again where there is a newer one. */
  #mayRecover(error: DulyError): boolean {
    return error.recoverable || (error.reason === "UNAUTHENTICATED" && (this.#token?.now() ?? "") !== this.#shown);
  }
}

/** The number on the wire for a name of an enumeration; not stated: 0. */
function numberOf<Names extends Record<string, string | number>>(
  names: Names,
  argument: string,
  name?: string,
): number {
  if (name === undefined) return 0;
  const number = names[name];
  if (typeof number === "number" && number !== 0) return number;
  const known = Object.keys(names).filter((key) => Number.isNaN(Number(key)) && names[key] !== 0);
  throw new TypeError(`${argument}: "${name}", expected one of ${known.join(", ")}`);
}
