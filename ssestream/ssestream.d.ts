/** Why a connection ended. */
export interface BreakReason {
  /**
   * - `network`: the connection failed or was cut
   * - `end`: the server ended the stream cleanly
   * - `status`: the server answered with `status`
   * - `type`: the answer is no event stream
   * - `silence`: not even a heartbeat came for three intervals
   * - `token`: `token()` failed
   * - `leader`: the tab that had the connection has gone
   * - `closing`: the server sent a closing event
   * - `abort`: `signal` was aborted
   */
  code: 'network' | 'end' | 'status' | 'type' | 'silence' | 'token' | 'leader' | 'closing' | 'abort';
  /** With `status`. */
  status?: number;
  /** The text of the error, if there was one. */
  message?: string;
  /** When it ended, in milliseconds as of `Date.now()`. */
  at: number;
}

export interface SharedEventSourceOptions {
  /** Send cookies to another origin, too. */
  withCredentials?: boolean;
  /** The default is `GET`. */
  method?: string;
  /** What `fetch` takes, but no stream, as it may be sent several times. */
  body?: BodyInit;
  headers?: HeadersInit;
  /** Closes the source. */
  signal?: AbortSignal;
  /** Asked anew for each connection; sent as `Authorization: Bearer`, if it is not empty. */
  token?: () => string | null | undefined | Promise<string | null | undefined>;
  /** Begin after this id. */
  lastEventId?: string;
  /**
   * Whether tabs share the connection. The default is true, but false with another method than
   * GET and with `headers`, `token` or `lastEventId`. A text names a group of tabs.
   */
  share?: boolean | string;
  /** How many of the last events a tab gets that joins others. The default is 0. */
  replay?: number;
  /** Milliseconds between the server's heartbeats; 0 for none. The default is 15000. */
  heartbeat?: number;
  /** The most milliseconds that are added to `retry` after many failures. The default is 30000. */
  maxDelay?: number;
  /** The names of the events after which the source closes. The default is `close`. */
  closeOn?: string | string[];
}

export interface SharedEventSourceEventMap {
  open: Event;
  message: MessageEvent<string>;
  error: Event;
}

/** An `EventSource` that all tabs of an origin share. */
export class SharedEventSource extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSED: 2;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSED: 2;

  /** Throws a `TypeError` for a wrong URL, method, body or header. */
  constructor(url: string | URL, options?: SharedEventSourceOptions);

  readonly url: string;
  readonly withCredentials: boolean;
  readonly readyState: 0 | 1 | 2;
  /** `waiting`: until the next try. */
  readonly state: 'connecting' | 'open' | 'waiting' | 'closed';
  /** Of the last break; null before the first. */
  readonly reason: BreakReason | null;
  /** Whether this tab has the connection. */
  readonly isLeader: boolean;
  readonly lastEventId: string;

  onopen: ((this: SharedEventSource, event: Event) => unknown) | null;
  onmessage: ((this: SharedEventSource, event: MessageEvent<string>) => unknown) | null;
  onerror: ((this: SharedEventSource, event: Event) => unknown) | null;

  addEventListener<K extends keyof SharedEventSourceEventMap>(
    type: K,
    listener: (this: SharedEventSource, event: SharedEventSourceEventMap[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: (this: SharedEventSource, event: MessageEvent<string>) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;

  close(): void;
}

/** A parser of event streams, as the HTML standard describes it. */
export class EventStreamParser {
  constructor(lastEventId?: string);
  /** The last event id. */
  id: string;
  /** The last `retry`, in milliseconds. */
  retry: number | null;
  /** The blocks that are complete now: the type, the data (null without any) and the id. */
  feed(bytes: Uint8Array): Array<[type: string, data: string | null, id: string]>;
}
