// An EventSource that the tabs of a site share. Its docs: docs/browser.rst.

const LONGEST = 2 ** 31 - 1; // the longest delay of setTimeout, in milliseconds
const KEPT = 256; // events that a tab keeps for tabs that have missed some
const PATIENCE = 5000; // for a leader's answer

// WHATWG HTML, 9.2.6. Bytes in, blocks out: [[type, data or null, id], ...].
export class EventStreamParser {
  retry = null; // the last one, in milliseconds
  #utf8 = new TextDecoder(); // drops one byte order mark
  #afterCR = false;
  #rest = '';
  #data = '';
  #type = '';
  #lastId;

  constructor(id = '') {
    this.id = this.#lastId = id;
  }

  feed(bytes) {
    let text = this.#utf8.decode(bytes, { stream: true });
    if (!text) return [];
    if (this.#afterCR && text[0] === '\n') text = text.slice(1);
    this.#afterCR = text.endsWith('\r');
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#rest + lines[0];
    this.#rest = lines.pop();
    const blocks = [];
    for (const line of lines) this.#read(line, blocks);
    return blocks;
  }

  #read(line, blocks) {
    if (!line) {
      const [data, type] = [this.#data, this.#type];
      this.#data = this.#type = '';
      if (data || type || this.id !== this.#lastId)
        blocks.push([type || 'message', data ? data.slice(0, -1) : null, this.id]);
      this.#lastId = this.id;
      return;
    }
    const [, name, value] = /^([^:]*)(?::\x20?)?([^]*)$/.exec(line);
    if (name === 'data') this.#data += value + '\n';
    else if (name === 'event') this.#type = value;
    else if (name === 'id' && !value.includes('\0')) this.id = value;
    else if (name === 'retry' && /^\d+$/.test(value)) this.retry = +value;
  }
}

const random = () => Math.random().toString(36).slice(2);

// Hidden pages round timers up.
const sleep = (ms, signal) =>
  ms > 0 &&
  new Promise((done) => {
    const end = () => done(signal.removeEventListener('abort', end), clearTimeout(timer));
    const timer = setTimeout(end, Math.min(ms, LONGEST));
    signal.addEventListener('abort', end);
  });

// Calls back after so long without end().
const silence = (limit, call) => {
  let heard = Date.now();
  // The wall clock also counts sleep. It may be set back.
  const check = () => {
    const now = Date.now();
    heard = Math.min(heard, now);
    if (now - heard > limit) call((heard = now));
  };
  const timer = limit && setInterval(check, Math.min(limit / 12, LONGEST));
  return { end: () => (heard = Date.now()), stop: () => clearInterval(timer) };
};

// One connection that reconnects. It tells all that happens, until abort().
class Connection {
  #life = new AbortController();

  constructor(url, options, at, tell) {
    this.url = url;
    this.options = options;
    this.at = { ...at };
    this.tell = (said) => this.#life.signal.aborted || tell({ ...said, at: { ...this.at } });
    this.#run();
  }

  abort() {
    this.#life.abort();
  }

  async #run() {
    const { signal } = this.#life;
    const { at } = this;
    await sleep(at.until - Date.now(), signal);
    while (!signal.aborted) {
      this.tell({ state: 'connecting' });
      const { final, after, ...reason } = await this.#read(signal);
      reason.at = Date.now();
      if (final) this.tell({ state: 'closed', reason });
      if (final || signal.aborted) return;
      const most = Math.min(this.options.maxDelay, Math.max(at.retry, 1000) * 2 ** at.tries++);
      const delay = Math.max(at.retry + (Math.random() * most) / 2, after || 0);
      at.until = reason.at + delay;
      this.tell({ state: 'waiting', reason });
      await sleep(delay, signal);
    }
  }

  async #read(life) {
    const { url, at, options, tell } = this;
    const isGet = options.method === 'GET';
    const abort = new AbortController();
    life.addEventListener('abort', () => abort.abort(), { signal: abort.signal });
    const watch = silence(3 * options.heartbeat, () => abort.abort('silence'));
    let code = 'token';
    try {
      const headers = new Headers(options.headers);
      if (!headers.has('Accept')) headers.set('Accept', 'text/event-stream');
      const token = await options.token?.();
      if (token) headers.set('Authorization', `Bearer ${token}`);
      code = 'network';
      const where = new URL(url);
      where.hash = '';
      const more = at.id && `lastEventId=${encodeURIComponent(at.id)}`;
      if (more) where.search += (where.search ? '&' : '?') + more;
      const response = await fetch(where, {
        ...options,
        headers,
        signal: abort.signal,
        cache: 'no-store',
        credentials: options.withCredentials ? 'include' : 'same-origin',
      });
      const { status } = response;
      if (status !== 200) {
        const final = status < 500 && ![408, 425, 429].includes(status);
        return { code: 'status', status, final, after: response.headers.get('Retry-After') * 1000 };
      }
      if (!/^text\/event-stream *(;|$)/i.test(response.headers.get('Content-Type')))
        return { code: 'type', final: true };
      const opened = Date.now();
      tell({ state: 'open', origin: new URL(response.url).origin });
      const parser = new EventStreamParser(at.id);
      const reader = response.body.getReader();
      // Node may forget the signal.
      abort.signal.addEventListener('abort', () => reader.cancel().catch(() => {}));
      for (;;) {
        const { done, value } = await reader.read();
        abort.signal.throwIfAborted();
        if (done) return { code: 'end', final: !isGet };
        watch.end();
        const events = [];
        let last;
        for (const [type, data, id] of parser.feed(value)) {
          at.id = id;
          last = [options.closeOn].flat().includes(type);
          if (last || data !== null) events.push([type, data ?? '', id]);
          if (last) break;
        }
        at.retry = parser.retry ?? at.retry;
        if (events.length || Date.now() - opened > PATIENCE) at.tries = 0;
        tell({ events });
        if (last) return { code: 'closing', final: true };
      }
    } catch (error) {
      if (abort.signal.reason === 'silence') code = 'silence';
      // A POST is repeated only if the server can go on from an id.
      return { code, message: `${error}`, final: code !== 'token' && !isGet && !at.id };
    } finally {
      watch.stop();
      abort.abort();
    }
  }
}

export class SharedEventSource extends EventTarget {
  state = 'connecting';
  reason = null;
  isLeader = false;

  #options;
  #origin = '';
  #at; // where a leader goes on
  #connection;
  #life = new AbortController();

  // All tabs hear the same in one order; the leader hears itself. A new leader announces its term.
  // What an earlier one says later is ignored, and read again.
  #name;
  #me = random();
  #channel;
  #out; // the leader's, to hear itself by the other
  #queue; // for the lock
  #release; // the lock
  #mine; // the term of this tab
  #term;
  #answer; // a leader's, to a tab that asks
  #group; // the tabs with one count
  #count = 0; // of events in the group
  #kept = []; // the last of them
  #isAsking;
  #suspicion;
  #watch;

  constructor(url, options = {}) {
    super();
    const { heartbeat = 15000, maxDelay = 30000, replay = 0, closeOn = 'close', signal } = options;
    const request = new Request(url, options); // throws for a wrong argument
    const { method } = request;
    const id = (this.lastEventId = options.lastEventId ?? '');
    this.url = request.url;
    this.withCredentials = !!options.withCredentials;
    this.#options = { ...options, method, heartbeat, maxDelay, replay, closeOn };
    this.#at = { id, retry: 1000, tries: 0, until: 0 };
    const share = options.share ?? !(method !== 'GET' || options.headers || options.token || id);
    for (const type of ['open', 'message', 'error']) {
      let handler = null;
      const call = (e) => handler.call(this, e);
      Object.defineProperty(this, `on${type}`, {
        get: () => handler,
        set: (f) => {
          handler = typeof f === 'function' ? f : null;
          this[handler ? 'addEventListener' : 'removeEventListener'](type, call);
        },
      });
    }
    const abort = () => {
      this.reason = { code: 'abort', at: Date.now() };
      this.close();
    };
    signal?.addEventListener('abort', abort, { signal: this.#life.signal });
    if (signal?.aborted) abort();
    else if (share && globalThis.navigator?.locks) this.#share(share);
    else this.#own();
  }

  get readyState() {
    return ['open', 'closed'].indexOf(this.state) + 1;
  }

  close() {
    this.state = 'closed';
    this.#pause(true);
    this.#life.abort();
  }

  #own() {
    this.isLeader = true;
    this.#connection = new Connection(this.url, this.#options, this.#at, (said) => this.#take(said));
  }

  #take({ state, reason, origin, events = [], at }) {
    if (origin) this.#origin = origin;
    if (state) this.#enter(state, reason);
    for (const [type, data, lastEventId] of events) {
      if (this.state === 'closed') return;
      this.lastEventId = lastEventId;
      this.dispatchEvent(new MessageEvent(type, { data, lastEventId, origin: this.#origin }));
    }
    if (at) this.lastEventId = (this.#at = at).id;
  }

  #enter(state, reason) {
    const before = this.state;
    this.state = state;
    this.reason = reason ?? this.reason;
    if (state === 'closed') this.close();
    if (state === 'open') before === state || this.dispatchEvent(new Event('open'));
    else if (reason && reason.code !== 'closing' && (before === 'open' || state !== 'connecting'))
      this.dispatchEvent(new Event('error'));
  }

  #share(name) {
    this.#name = `ssestream ${this.withCredentials} ${name} ${this.url.split('#')[0]}`;
    const listen = (target, type, call) =>
      target?.addEventListener?.(type, call, { signal: this.#life.signal });
    // A page that is frozen or kept for the back button leads nobody.
    listen(globalThis, 'pagehide', (e) => e.persisted && this.#pause(true));
    listen(globalThis, 'pageshow', (e) => e.persisted && this.#join());
    listen(globalThis.document, 'freeze', () => this.#pause());
    listen(globalThis.document, 'resume', () => this.#join());
    this.#join();
  }

  #join() {
    if (this.#queue || this.#connection) return;
    if (!this.#channel) {
      this.#channel = new BroadcastChannel(this.#name);
      this.#channel.onmessage = ({ data }) => this.#hear(data);
    }
    this.#watch = silence(4 * this.#options.heartbeat, () => this.#ask());
    this.#request();
    this.#ask();
  }

  #pause(isHidden) {
    this.#resign();
    this.#queue?.abort();
    this.#queue = null;
    this.#watch?.stop();
    this.#heard();
    this.#isAsking = false;
    if (!isHidden) return;
    this.#channel?.close();
    this.#channel = this.#term = null;
  }

  #resign() {
    this.#connection?.abort();
    this.#connection = null;
    this.#out?.close();
    this.#release?.();
    this.#mine = null;
    this.isLeader = false;
  }

  // Wait for the lock, or steal it from a silent leader.
  #request(steal) {
    this.#queue?.abort();
    const { signal } = (this.#queue = new AbortController());
    const lead = () =>
      new Promise((release) => {
        if (signal.aborted) return release();
        this.#release = release;
        this.#out = new BroadcastChannel(this.#name);
        this.#out.postMessage({ lead: (this.#mine = random()) });
      });
    navigator.locks.request(this.#name, steal ? { steal } : { signal }, lead).catch(() => {});
  }

  #ask() {
    if (this.#isAsking || this.#connection) return;
    this.#isAsking = true;
    const { replay } = this.#options;
    this.#channel.postMessage({ ask: this.#me, group: this.#group, count: this.#count, replay });
    this.#suspect();
  }

  #suspect() {
    const steal = () => {
      this.#heard();
      this.#isAsking = false;
      this.#request(true);
    };
    // A tab of the group goes first.
    this.#suspicion ??= setTimeout(steal, PATIENCE * (this.#group ? 1 : 2) + Math.random() * 1000);
  }

  #heard() {
    clearTimeout(this.#suspicion);
    this.#suspicion = null;
    this.#watch?.end();
  }

  #hear(said) {
    if (said.ask) {
      if (this.#connection) this.#answer(said);
      else if (this.#group) this.#suspect();
    } else if (said.lead) this.#follow(said.lead);
    else if (said.term === this.#term || (said.to === this.#me && !this.#term)) {
      this.#heard();
      this.#term = said.term;
      if (!said.to || said.to === this.#me) this.#learn(said);
    }
  }

  #follow(term) {
    this.#heard();
    if (term !== this.#mine && this.#connection) {
      this.#resign();
      this.#request();
    }
    this.#term = term;
    if (this.state === 'open') this.#enter('connecting', { code: 'leader', at: Date.now() });
    const wasAsking = this.#isAsking;
    this.#isAsking = false;
    if (this.state === 'closed') return;
    if (term === this.#mine) this.#lead();
    else if (wasAsking) this.#ask();
  }

  #learn({ group, count, events = [], to, isLost, ...said }) {
    if (to) this.#isAsking = false;
    if (to && !this.#group) [this.#group, this.#count] = [group, count];
    if (!this.#group || (group === this.#group && count > this.#count && !isLost)) return this.#ask();
    const missing = to ? events.slice(this.#count - count) : events;
    if (isLost || group !== this.#group || (!to && count < this.#count)) {
      // Only the server has what this tab has missed.
      this.#pause(true);
      return this.#own();
    }
    this.#count += missing.length;
    this.#keep(this.#kept, missing);
    this.#take({ ...said, events: missing });
  }

  #keep(kept, events) {
    kept.push(...events);
    kept.splice(0, kept.length - Math.max(KEPT, this.#options.replay));
  }

  #lead() {
    const out = this.#out;
    const term = this.#term;
    const group = (this.#group ??= random());
    // What was said, before it is heard.
    let count = this.#count;
    const kept = [...this.#kept];
    const now = { reason: this.reason, origin: this.#origin };
    this.isLeader = true;
    out.postMessage({ term, group, count });
    this.#answer = (asked) => {
      const from = asked.group ? asked.count : count - Math.min(kept.length, asked.replay);
      const missing = count - from;
      const isLost = (asked.group ?? group) !== group || missing < 0 || missing > kept.length;
      const events = isLost ? [] : kept.slice(kept.length - missing);
      if (now.state !== 'closed')
        out.postMessage({ term, group, count: from, events, to: asked.ask, isLost, ...now });
    };
    this.#connection = new Connection(this.url, this.#options, this.#at, (said) => {
      out.postMessage({ term, group, count, ...said });
      const { events = [], ...state } = said;
      count += events.length;
      this.#keep(kept, events);
      Object.assign(now, state);
    });
  }
}

for (const each of [SharedEventSource, SharedEventSource.prototype])
  Object.assign(each, { CONNECTING: 0, OPEN: 1, CLOSED: 2 });
