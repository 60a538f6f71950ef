// The page for operators. Each look of its stream is drawn into the tables.
//
// Clients and publishers have chosen many of the texts here. So a text only ever becomes the
// textContent of an element, and the policy of the page forbids everything else.

const AGAIN = 3000; // milliseconds to the next try after an answer that is no stream
const KEPT = 120; // values in the plot: two minutes

const find = (id) => document.getElementById(id);
const CAUSES = {
  client: 'its client left', ended: 'the app ended it', stalled: 'its client took nothing',
  overflow: 'too much waited', age: 'it was old (max_age)', shutdown: 'its worker stopped',
  interrupted: 'its worker stopped it in the middle', refused: 'it was refused',
  error: 'it was destroyed, or cut here',
};
const BAD = new Set(['stalled', 'overflow', 'interrupted', 'error']);

// -- texts

const whole = new Intl.NumberFormat('en');
const rate = new Intl.NumberFormat('en', { maximumFractionDigits: 1, minimumFractionDigits: 1 });
const rateOf = (number) => (number === null ? '–' : rate.format(number));

function bytes(number) {
  const units = ['B', 'kB', 'MB', 'GB'];
  let unit = 0;
  for (; number >= 1000 && unit < units.length - 1; unit += 1) number /= 1000;
  return `${unit && number < 10 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

function duration(seconds) {
  for (const [unit, length] of [['d', 86400], ['h', 3600], ['min', 60]]) {
    if (seconds >= 2 * length) return `${Math.round(seconds / length)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

const more = ({ more: number, at_least: some }, what) => {
  if (!number && !some) return '';
  return `${some ? 'At least ' : ''}${whole.format(number)} more ${what}.`;
};

// -- tables

class Table {
  constructor(name, none) {
    this.table = find(`${name}-table`);
    this.note = find(`${name}-note`);
    this.numeric = [...this.table.tHead.rows[0].cells].map((cell) => cell.classList.contains('n'));
    this.none = none;
    this.rows = new Map();
  }

  // `items` are [key, texts, button, isBad]. A row that is still there stays the same element, so
  // that the focus and a reader's place stay, too.
  draw(items, note) {
    const body = this.table.tBodies[0];
    const focused = document.activeElement;
    const keys = new Set(items.map(([key]) => key));
    for (const [key, row] of this.rows) {
      if (!keys.has(key)) {
        row.remove();
        this.rows.delete(key);
      }
    }
    items.forEach(([key, texts, button, isBad], at) => {
      let row = this.rows.get(key);
      if (!row) this.rows.set(key, row = this.row(texts, button));
      texts.forEach((text, column) => {
        const cell = row.cells[column];
        if (cell.textContent !== text) cell.textContent = text;
      });
      row.classList.toggle('bad', Boolean(isBad));
      if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] ?? null);
    });
    if (focused !== document.activeElement && focused?.isConnected) {
      focused.focus({ preventScroll: true });
    }
    const text = items.length ? note : this.none;
    if (this.note.textContent !== text) this.note.textContent = text;
  }

  row(texts, button) {
    const row = document.createElement('tr');
    texts.forEach((_, column) => {
      const cell = document.createElement(column ? 'td' : 'th');
      if (!column) cell.scope = 'row';
      cell.className = this.numeric[column] ? 'n' : 'text';
      row.append(cell);
    });
    if (button) row.insertCell().append(button());
    return row;
  }
}

function button(text, label, act) {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = text;
  made.setAttribute('aria-label', `${text}: ${label}`);
  made.addEventListener('click', act);
  return made;
}

const channels = new Table('channels', 'No channel is followed.');
const streams = new Table('streams', 'No stream is open.');
const ends = new Table('ends', 'No stream has ended yet.');
const processes = new Table('processes', '');

// -- a look

const plotted = [];

function plot(value) {
  if (value === null) return;
  plotted.push(value);
  if (plotted.length > KEPT) plotted.shift();
  const top = Math.max(1, ...plotted);
  find('plot').setAttribute('points', plotted.map(
    (each, at) => `${KEPT - plotted.length + at},${(22 - 20 * each / top).toFixed(1)}`).join(' '));
}

function text(id, value) {
  if (find(id).textContent !== value) find(id).textContent = value;
}

function draw(look) {
  text('open', whole.format(look.open));
  for (const name of ['messages', 'opened', 'closed']) {
    text(name, rateOf(look.rates && look.rates[name]));
  }
  text('waiting', bytes(look.waiting));
  text('refused', whole.format(look.refused));

  for (const id of ['channels', 'publish', 'key']) find(id).hidden = look.channels === null;
  if (look.channels) {
    channels.draw(look.channels.rows.map((each) => [
      each.name,
      [each.name, whole.format(each.streams), whole.format(each.behind), rateOf(each.rate)],
      () => button('End streams', each.name, () => confirm(
        'End the streams of this channel?', each.name,
        'On all hosts. Browsers reconnect, and get what they have missed.', 'End streams',
        () => post('close-channel', { channel: each.name }, 'The streams of the channel end.'))),
    ]), more(look.channels, 'channels'));
  }
  streams.draw(look.streams.rows.map((each) => [
    each.id,
    [
      each.client, each.channels.join(' ') + (each.more_channels ? ` +${each.more_channels}` : ''),
      duration(each.seconds), whole.format(each.messages), whole.format(each.behind),
      bytes(each.waiting), String(each.process),
    ],
    () => button('Cut', each.client, () => confirm(
      'Cut this stream?', `${each.client} ${each.channels.join(' ')}`,
      'What waits for it is dropped. A browser reconnects, and the app decides anew whether it may.',
      'Cut', () => post('cut', { stream: each.id }, 'The stream is cut within about a second.'))),
  ]), more(look.streams, 'streams'));
  ends.draw(look.ends.rows.map((each) => [
    each.id,
    [
      new Date(each.at * 1000).toLocaleTimeString(), each.client, CAUSES[each.cause] ?? each.cause,
      duration(each.seconds), whole.format(each.messages), bytes(each.bytes), String(each.process),
    ],
    null, BAD.has(each.cause),
  ]), '');
  text('causes', Object.entries(look.closed).filter(([, number]) => number)
    .map(([cause, number]) => `${whole.format(number)} × ${CAUSES[cause] ?? cause}`).join(' · '));
  processes.draw(look.processes.rows.map((each) => [
    each.process,
    [String(each.process), whole.format(each.open), bytes(each.waiting),
      each.draining ? 'draining' : 'serving'],
  ]), more(look.processes, 'processes'));
}

// -- the stream of the page

let source;
let paused = false;
let latest = null;
let retry;

function state(word, value = word) {
  if (find('state').textContent !== word) find('state').textContent = word;
  find('state').dataset.state = value;
}

function open() {
  clearTimeout(retry);
  source?.close();
  const url = new URL('events', document.baseURI);
  const wanted = find('find').value.trim();
  if (wanted) url.searchParams.set('find', wanted);
  const opened = source = new EventSource(url);
  opened.addEventListener('look', (event) => {
    latest = JSON.parse(event.data);
    plot(latest.rates && latest.rates.messages);
    if (!paused) {
      state('live');
      draw(latest);
    }
  });
  opened.onerror = () => {
    if (opened !== source) return;
    state('reconnecting', 'waiting');
    // An answer that is no stream: a browser does not try again by itself.
    if (opened.readyState === EventSource.CLOSED) retry = setTimeout(again, AGAIN);
  };
}

async function again() {
  try {
    const answer = await fetch(document.baseURI, { redirect: 'manual' });
    if (answer.type === 'opaqueredirect' || answer.status === 401 || answer.status === 403) {
      state('You are not admitted any more. Reload the page.', 'refused');
      return;
    }
  } catch {
    // The server is away.
  }
  open();
}

// -- what an operator does

let silence;

function say(words) {
  find('done').textContent = words;
  clearTimeout(silence);
  silence = setTimeout(() => { find('done').textContent = ''; }, 8000);
}

async function post(action, fields, words) {
  try {
    const answer = await fetch(new URL(action, document.baseURI), {
      method: 'POST', body: JSON.stringify(fields), headers: { 'Content-Type': 'application/json' },
    });
    if (answer.ok) {
      say(words);
      return;
    }
    const reason = await answer.json().then((value) => value.error, () => `status ${answer.status}`);
    say(`That did not work: ${reason}`);
  } catch {
    say('That did not work: the server does not answer.');
  }
}

let confirmed = () => {};

function confirm(title, name, note, word, act) {
  find('confirm-title').textContent = title;
  find('confirm-text').textContent = name;
  find('confirm-note').textContent = note;
  find('yes').textContent = word;
  confirmed = act;
  find('confirm').showModal();
}

find('no').addEventListener('click', () => find('confirm').close());
find('yes').addEventListener('click', () => {
  find('confirm').close();
  confirmed();
});

find('publish').addEventListener('submit', (event) => {
  event.preventDefault();
  post('publish', Object.fromEntries(new FormData(event.target)), 'The event is published.');
});

find('key').addEventListener('submit', (event) => {
  event.preventDefault();
  const fields = Object.fromEntries(new FormData(event.target));
  confirm('Cut this key?', `${fields.channel} ${fields.key}`,
    'On all hosts. First take the right away, or the client comes back.', 'Cut',
    () => post('cut-key', fields, 'The streams of the key end.'));
});

find('pause').addEventListener('click', () => {
  paused = !paused;
  find('pause').setAttribute('aria-pressed', String(paused));
  if (paused) state('paused', 'waiting');
  else if (latest) {
    state('live');
    draw(latest);
  }
});

let typing;
find('find').addEventListener('input', () => {
  clearTimeout(typing);
  typing = setTimeout(open, 300);
});

addEventListener('pagehide', () => source.close());
addEventListener('pageshow', (event) => { if (event.persisted) open(); });
open();
