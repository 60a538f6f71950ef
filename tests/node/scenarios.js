// Plays the scenarios of test_semantics.py on npm's ssestream.
//
// Prints {name: [observation, ...]}. A scenario writes down what it sees; "--"
// stands where it lets the event loop run until nothing more happens.

'use strict'
const { EventEmitter } = require('events')
const http = require('http')
const SseStream = require('ssestream').default

let seen = []
const see = (text) => seen.push(text)

const soon = () => new Promise((resolve) => setImmediate(resolve))

async function settle() {
  for (let turn = 0; turn < 10; turn++) await soon()
  see('--')
}

async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1))
}

// A destination that takes every message, and says that it is full when told to.
class Tap extends EventEmitter {
  constructor(name, quiet = false) {
    super()
    this.name = name
    this.quiet = quiet
    this.got = []
    this.full = false
    this.writableNeedDrain = false
    this.text = ''
    for (const event of ['pipe', 'unpipe']) {
      this.on(event, (source) => see(`${name} ${event} ${source.constructor.name}`))
    }
  }

  write(chunk) {
    this.text += chunk
    // Node's package hands a message on in several chunks.
    if (!this.text.endsWith('\n\n')) return true
    const text = this.text.trimEnd().replace(/^data: /, '')
    this.text = ''
    this.got.push(text)
    if (!this.quiet) see(`${this.name} got ${text}`)
    this.writableNeedDrain = this.full
    return !this.full
  }

  end() {
    see(`${this.name} end()`)
    this.emit('finish')
    this.emit('close')
  }

  drain(full = false) {
    this.full = full
    this.writableNeedDrain = false
    this.emit('drain')
  }
}

function watch(emitter, name, events) {
  for (const event of events) {
    emitter.on(event, (error) => {
      const code = error instanceof Error ? ` ${error.code || error.message}` : ''
      see(`${name} ${event}${code}`)
    })
  }
}

function newStream(request) {
  const sse = new SseStream(request)
  watch(sse, 'stream', ['drain', 'finish', 'end', 'close', 'error'])
  return sse
}

const data = (text) => ({ data: String(text) })

function write(sse, text, callback) {
  see(`write ${text} -> ${sse.write(data(text), callback)}`)
}

const heard = (name) => (error) => {
  see(`callback ${name}: ${error ? error.code || error.message : 'no error'}`)
}

// A destination that *sse* is piped to, once that has happened.
async function piped(sse, name, { quiet = false, full = false } = {}) {
  const tap = new Tap(name, quiet)
  tap.full = full
  sse.pipe(tap)
  await settle()
  return tap
}

// The first message, once the client has it.
async function delivered(sse, client) {
  write(sse, 1)
  await until(() => client.text.includes('1'))
}

async function closed() {
  await until(() => seen.includes('res close'))
  await settle()
}

function throwing(what, call) {
  try {
    call()
  } catch (error) {
    see(`${what} throws ${error.code}`)
  }
}

// Many writes, told in short: "true, false".
function writeMany(sse, first, last) {
  const results = []
  for (let n = first; n <= last; n++) results.push(sse.write(data(n)))
  see(`writes ${first}-${last} -> ` + results.filter((r, n) => r !== results[n - 1]).join(', '))
}

// What a quiet destination got, in short.
function gotMany(tap) {
  const numbers = tap.got.slice(1).map(Number)
  const inOrder = numbers.every((n, index) => n === numbers[0] + index)
  see(`${tap.name} got ${tap.got[0]} ${numbers[0]}-${numbers.at(-1)}, in order: ${inOrder}`)
}

// A real request and its response, and the client that made it.
async function exchange(play) {
  const client = { text: '', ended: false, cut: false }
  let answered
  const handled = new Promise((resolve) => (answered = resolve))
  const server = http.createServer((req, res) => answered({ req, res }))
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const request = http.get({ port: server.address().port, host: '127.0.0.1', agent: false })
  client.leave = () => request.destroy()
  client.gone = () => client.ended || client.cut
  request.on('error', () => {})
  request.on('response', (response) => {
    response.on('data', (chunk) => (client.text += chunk))
    response.on('end', () => (client.ended = true))
    response.on('aborted', () => (client.cut = true))
    response.on('error', () => {})
  })
  const { req, res } = await handled
  try {
    await play(req, res, client)
  } finally {
    const kept = [...seen]
    request.destroy()
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
    await settle()
    seen.splice(0, seen.length, ...kept)
  }
}

const received = (client) =>
  see('client got ' + client.text.trim().split('\n\n').map((t) => t.replace('data: ', '')).join(' '))

process.on('uncaughtException', (error) => see(`uncaught: ${error.code || error.message}`))

const scenarios = {
  async write_below_at_and_above_the_mark_unpiped() {
    const sse = newStream()
    writeMany(sse, 1, 40)
    await settle()
    const a = await piped(sse, 'a', { quiet: true })
    gotMany(a)
    write(sse, 41)
    await settle()
  },

  async write_while_the_destination_is_full() {
    const sse = newStream()
    const a = await piped(sse, 'a', { quiet: true, full: true })
    writeMany(sse, 1, 40)
    await settle()
    a.drain()
    await settle()
    gotMany(a)
  },

  async each_drain_lets_one_message_through() {
    const sse = newStream()
    const a = await piped(sse, 'a', { full: true })
    for (const n of [1, 2, 3]) write(sse, n)
    await settle()
    for (let n = 0; n < 4; n++) {
      a.drain(true)
      await settle()
    }
  },

  async below_the_mark_there_is_no_drain() {
    const sse = newStream()
    write(sse, 1)
    await settle()
    await piped(sse, 'a')
  },

  async a_piped_stream_ends() {
    const sse = newStream()
    sse.pipe(new Tap('a'))
    write(sse, 1)
    await settle()
    sse.end()
    await settle()
  },

  async a_response_ends() {
    await exchange(async (req, res, client) => {
      const sse = newStream(req)
      watch(res, 'res', ['pipe', 'finish'])
      sse.pipe(res)
      watch(res, 'res', ['unpipe', 'close'])
      write(sse, 1)
      await settle()
      sse.end(data(2))
      await until(() => client.text.includes('2') && seen.includes('res close'))
      await settle()
      received(client)
      see(`client saw the end: ${client.ended}`)
    })
  },

  async end_with_messages_queued() {
    const sse = newStream()
    for (const n of [1, 2]) write(sse, n)
    sse.end(data(3))
    await settle()
    await piped(sse, 'a')
  },

  async end_while_the_destination_is_full() {
    const sse = newStream()
    const a = await piped(sse, 'a', { full: true })
    for (const n of [1, 2]) write(sse, n)
    sse.end()
    await settle()
    for (let n = 0; n < 3; n++) {
      a.drain(true)
      await settle()
    }
  },

  async end_twice() {
    const sse = newStream()
    sse.pipe(new Tap('a'))
    sse.end()
    sse.end()
    await settle()
    sse.end()
    await settle()
  },

  async write_after_end() {
    const sse = newStream()
    const a = await piped(sse, 'a', { full: true })
    for (const n of [1, 2]) write(sse, n)
    sse.end()
    throwing('write 3', () => write(sse, 3, heard(3)))
    await settle()
    a.drain()
    await settle()
  },

  async write_after_everything_is_over() {
    const sse = newStream()
    sse.pipe(new Tap('a'))
    sse.end()
    await settle()
    throwing('write 1', () => write(sse, 1))
    await settle()
  },

  async what_a_close_handler_has_ended_takes_late_writes() {
    const sse = newStream()
    sse.on('close', () => sse.end())
    sse.destroy()
    await settle()
    write(sse, 1, heard(1))
    await settle()
  },

  async a_response_that_a_close_handler_has_ended_takes_late_writes() {
    await exchange(async (req, res, client) => {
      watch(res, 'res', ['error'])
      res.on('close', () => {
        see('res close')
        res.end()
      })
      res.write('x')
      await until(() => client.text.includes('x'))
      client.leave()
      await closed()
      see(`res.write -> ${res.write('y')}`)
      res.end('z')
      await settle()
    })
  },

  async handlers_that_take_no_argument() {
    const sse = newStream()
    sse.on('error', () => see('error handler'))
    sse.once('error', () => see('error handler, once'))
    await piped(sse, 'a')
    sse.write(data(1), () => see('callback 1'))
    await settle()
    sse.unpipe()
    sse.destroy(new Error('boom'))
    await settle()
  },

  async callbacks_after_unpipe() {
    const sse = newStream()
    const a = await piped(sse, 'a')
    sse.unpipe(a)
    write(sse, 1, heard(1))
    await settle()
    await piped(sse, 'b')
  },

  async callbacks_of_what_waits_when_it_is_unpiped() {
    const sse = newStream()
    const a = await piped(sse, 'a')
    a.full = true
    write(sse, 1)
    await settle()
    write(sse, 2, heard(2))
    sse.unpipe(a)
    await settle()
    write(sse, 3, heard(3))
    await settle()
    await piped(sse, 'b')
  },

  async several_destinations_go_at_the_pace_of_the_slowest() {
    const sse = newStream()
    const fast = new Tap('fast')
    const slow = new Tap('slow')
    sse.pipe(fast)
    await settle()
    sse.pipe(slow)
    await settle()
    slow.full = true
    for (const n of [1, 2, 3]) write(sse, n)
    await settle()
    slow.drain(true)
    await settle()
    slow.drain()
    await settle()
  },

  async two_full_destinations_are_both_waited_for() {
    const sse = newStream()
    const a = new Tap('a')
    const b = new Tap('b')
    sse.pipe(a)
    await settle()
    sse.pipe(b)
    await settle()
    a.full = b.full = true
    for (const n of [1, 2]) write(sse, n)
    await settle()
    a.drain()
    await settle()
    b.drain()
    await settle()
  },

  async unpiping_the_slow_one_lets_the_others_go_on() {
    const sse = newStream()
    const fast = new Tap('fast')
    const slow = new Tap('slow')
    sse.pipe(fast)
    await settle()
    sse.pipe(slow)
    await settle()
    slow.full = true
    for (const n of [1, 2]) write(sse, n)
    await settle()
    sse.unpipe(slow)
    await settle()
  },

  async unpipe_and_pipe_again() {
    const sse = newStream()
    const a = new Tap('a')
    sse.pipe(a)
    write(sse, 1)
    await settle()
    sse.unpipe(a)
    for (const n of [2, 3]) write(sse, n)
    await settle()
    sse.pipe(new Tap('b'))
    write(sse, 4)
    await settle()
  },

  async unpipe_all() {
    const sse = newStream()
    await piped(sse, 'a')
    await piped(sse, 'b')
    sse.unpipe()
    write(sse, 1)
    await settle()
  },

  async unpipe_what_was_never_piped() {
    const sse = newStream()
    sse.unpipe()
    sse.unpipe(new Tap('a'))
    await settle()
  },

  async pipe_without_end() {
    const sse = newStream()
    sse.pipe(new Tap('a'), { end: false })
    write(sse, 1)
    await settle()
    sse.end()
    await settle()
  },

  async pipe_returns_its_destination() {
    const sse = newStream()
    const a = new Tap('a')
    const piped = sse.pipe(a)
    await settle()
    see(`pipe gives the destination: ${piped === a}`)
    const unpiped = sse.unpipe(a)
    await settle()
    see(`unpipe gives the stream: ${unpiped === sse}`)
    await settle()
  },

  async pipe_twice_to_one_destination() {
    const sse = newStream()
    const a = new Tap('a')
    sse.pipe(a)
    throwing('pipe', () => sse.pipe(a))
    write(sse, 1)
    await settle()
  },

  async pipe_after_the_end() {
    const sse = newStream()
    sse.pipe(new Tap('a'))
    sse.end()
    await settle()
    throwing('pipe', () => sse.pipe(new Tap('b')))
    await settle()
  },

  async the_head_goes_first() {
    const sse = newStream()
    const a = new Tap('a')
    a.writeHead = (status, headers) => see(`a writeHead ${status} ${headers['Content-Type']}`)
    a.flushHeaders = () => see('a flushHeaders')
    write(sse, 1)
    sse.pipe(a)
    await settle()
  },

  async pipe_to_a_response_that_is_being_sent() {
    await exchange(async (req, res) => {
      const sse = newStream(req)
      res.write('x')
      throwing('pipe', () => sse.pipe(res))
      write(sse, 1)
      see(`piped: ${sse.readableFlowing !== null}`)
    })
  },

  async pipe_to_another_stream() {
    const sse = newStream()
    const other = new SseStream()
    await piped(other, 'a')
    throwing('pipe', () => sse.pipe(other))
    write(sse, 1)
    await settle()
  },

  async callbacks_come_in_order() {
    const sse = newStream()
    await piped(sse, 'a')
    for (const n of [1, 2, 3]) sse.write(data(n), heard(n))
    await settle()
    sse.write(data(4), 'utf-8', heard(4))
    sse.writeMessage(data(5), 'utf-8', heard(5))
    await settle()
  },

  async a_callback_while_nothing_is_piped() {
    const sse = newStream()
    sse.write(data(1), heard(1))
    await settle()
    await piped(sse, 'a')
  },

  async destroy_without_an_error() {
    const sse = newStream()
    const a = new Tap('a')
    a.full = true
    a.destroy = () => see('a destroy()')
    sse.pipe(a)
    await settle()
    writeMany(sse, 1, 30)
    for (const n of [31, 32]) sse.write(data(n), heard(n))
    await settle()
    sse.destroy()
    see(`destroyed: ${sse.destroyed}`)
    await settle()
    a.drain()
    write(sse, 33, heard(33))
    await settle()
  },

  async destroy_with_an_error() {
    const sse = newStream()
    writeMany(sse, 1, 30)
    sse.write(data(31), heard(31))
    sse.destroy(new Error('boom'))
    sse.destroy(new Error('again'))
    await settle()
    sse.end()
    await settle()
  },

  async the_stream_is_destroyed_under_a_response() {
    await exchange(async (req, res, client) => {
      const sse = newStream(req)
      watch(res, 'res', ['finish'])
      sse.pipe(res)
      watch(res, 'res', ['unpipe', 'close'])
      await delivered(sse, client)
      sse.destroy()
      await settle()
      see(`client cut off: ${client.gone()}`)
    })
  },

  async the_response_is_destroyed_under_the_stream() {
    await exchange(async (req, res, client) => {
      const sse = newStream(req)
      watch(res, 'res', ['finish'])
      sse.pipe(res)
      watch(res, 'res', ['unpipe', 'close'])
      await delivered(sse, client)
      res.destroy()
      await until(() => client.gone())
      await settle()
      see(`client cut off: ${client.gone()}`)
    })
  },

  async the_client_leaves() {
    await exchange(async (req, res, client) => {
      const sse = newStream(req)
      sse.pipe(res)
      watch(res, 'res', ['unpipe', 'finish'])
      res.on('close', () => {
        see('res close')
        sse.unpipe(res)
      })
      await delivered(sse, client)
      client.leave()
      await closed()
      write(sse, 2, heard(2))
      await settle()
    })
  },

  async a_client_leaves_a_stream_of_no_request() {
    const sse = newStream()
    await exchange(async (req, res, client) => {
      watch(res, 'res', ['finish'])
      sse.pipe(res)
      watch(res, 'res', ['unpipe', 'close'])
      await delivered(sse, client)
      client.leave()
      await closed()
      sse.write(data(2))
      await settle()
      sse.pipe(new Tap('a'))
      write(sse, 3)
      await settle()
    })
  },

  async one_of_two_clients_leaves() {
    const sse = newStream()
    await exchange(async (req, res, client) => {
      sse.pipe(res)
      watch(res, 'res', ['unpipe', 'close'])
      await settle()
      sse.pipe(new Tap('a'))
      await delivered(sse, client)
      client.leave()
      await closed()
      write(sse, 2)
      await settle()
    })
  },

  async the_response_is_ended_under_the_stream() {
    await exchange(async (req, res, client) => {
      const sse = newStream(req)
      watch(res, 'res', ['finish'])
      sse.pipe(res)
      watch(res, 'res', ['unpipe', 'close'])
      await delivered(sse, client)
      res.end()
      await closed()
      sse.write(data(2))
      await settle()
      received(client)
    })
  },

  async the_response_is_ended_and_the_stream_written_to_at_once() {
    await exchange(async (req, res, client) => {
      const sse = newStream(req)
      sse.pipe(res)
      watch(res, 'res', ['unpipe', 'close'])
      await delivered(sse, client)
      await settle()
      res.end()
      sse.write(data(2))
      await closed()
      received(client)
    })
  },

  async a_close_handler_raises() {
    await exchange(async (req, res, client) => {
      const sse = newStream(req)
      sse.pipe(res)
      res.on('close', () => {
        see('first handler')
        throw new Error('boom')
      })
      res.on('close', () => see('second handler'))
      await until(() => client.text)
      client.leave()
      await until(() => seen.includes('first handler'))
      await settle()
    })
  },

  async a_destination_raises() {
    const sse = newStream()
    const bad = await piped(sse, 'bad')
    await piped(sse, 'good')
    bad.write = () => {
      throw new Error('boom')
    }
    for (const n of [1, 2]) {
      try {
        write(sse, n)
      } catch (error) {
        see(`write ${n} throws ${error.message}`)
      }
    }
    await settle()
  },

  async a_destination_tells_an_error() {
    const sse = newStream()
    const bad = new Tap('bad')
    bad.on('error', () => {})
    sse.pipe(bad)
    await settle()
    await piped(sse, 'good')
    bad.emit('error', new Error('boom'))
    write(sse, 1)
    await settle()
  },

  async a_destination_finishes_by_itself() {
    const sse = newStream()
    const a = await piped(sse, 'a')
    await piped(sse, 'b')
    a.emit('finish')
    write(sse, 1)
    await settle()
  },

  async a_destination_closes_by_itself() {
    const sse = newStream()
    const a = await piped(sse, 'a')
    await piped(sse, 'b')
    a.emit('close')
    write(sse, 1)
    await settle()
  },

  async a_bad_message() {
    const sse = newStream()
    await piped(sse, 'a')
    try {
      sse.write({ data: Symbol('no JSON') })
    } catch (error) {
      see('write throws')
    }
    write(sse, 1)
    await settle()
  },

  async a_null_message() {
    const sse = newStream()
    try {
      sse.write(null)
    } catch (error) {
      see('write throws')
    }
    await settle()
  },

  async writes_from_a_handler() {
    const sse = newStream()
    sse.on('drain', () => write(sse, 41))
    writeMany(sse, 1, 40)
    const a = await piped(sse, 'a', { quiet: true })
    gotMany(a)
  },

  async what_a_stream_tells_of_itself() {
    const sse = newStream()
    const state = () => {
      const names = ['writableEnded', 'writableFinished', 'destroyed', 'writableNeedDrain']
      see(names.filter((name) => sse[name]).join(', ') || 'nothing')
    }
    see(`mark ${sse.writableHighWaterMark}, length ${sse.writableLength}`)
    state()
    writeMany(sse, 1, 40)
    state()
    const a = await piped(sse, 'a', { quiet: true })
    gotMany(a)
    state()
    a.full = true
    write(sse, 41)
    sse.end()
    state()
    await settle()
    a.drain()
    await settle()
    state()
  },
}

async function main() {
  const results = {}
  for (const [name, play] of Object.entries(scenarios)) {
    seen = []
    const late = new Promise((resolve) => setTimeout(resolve, 5000, 'late').unref())
    const end = await Promise.race([play().catch((error) => see(`failed: ${error.stack}`)), late])
    if (end === 'late') see('never ended')
    if (seen.at(-1) === '--') seen.pop()
    results[name] = seen
  }
  process.stdout.write(JSON.stringify(results), () => process.exit())
}

main()
