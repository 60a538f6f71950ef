// npm's ssestream on Express: streams with a producer or a channel of their own.

const { Readable } = require('node:stream')
const { setTimeout: sleep } = require('node:timers/promises')
const express = require('express')
const redis = require('redis')
const SseStream = require('ssestream').default
const control = require('./control')

const TEXT = process.env.BENCHMARK_TEXT
const app = express()
const streams = new Set()

// Seconds, by the clock that all processes of the machine share.
const clock = () => Number(process.hrtime.bigint()) / 1e9
const message = (n, due) => ({ n, due, text: TEXT })

app.get('/timers', (req, res) => {
    const sseStream = new SseStream(req)
    sseStream.pipe(res)
    const interval = Number(req.query.interval)
    const began = clock()
    let n = 0
    const timer = setInterval(() => {
        n++
        sseStream.write({ data: message(n, began + n * interval / 1000) })
    }, interval)
    res.on('close', () => {
        clearInterval(timer)
        sseStream.unpipe(res)
    })
})

app.get('/sources', (req, res) => {
    const interval = Number(req.query.interval)
    const count = Number(req.query.count || 0)
    async function* messages() {
        const began = clock()
        for (let n = 1; !count || n <= count; n++) {
            await sleep(interval)
            yield { data: message(n, began + n * interval / 1000) }
        }
    }
    const sseStream = new SseStream(req)
    const source = Readable.from(messages())
    source.pipe(sseStream).pipe(res)
    res.on('close', () => source.destroy())
})

app.get('/full', (req, res) => {
    const sseStream = new SseStream(req)
    sseStream.pipe(res)
    const count = Number(req.query.count)
    let n = 0
    const go = () => {
        while (n < count) {
            if (!sseStream.write({ data: { n: ++n, text: TEXT } })) {
                sseStream.once('drain', go)
                return
            }
        }
        sseStream.end()
    }
    go()
})

app.get('/write', (req, res) => {
    const sseStream = new SseStream(req)
    sseStream.pipe(res)
    streams.add(sseStream)
    res.on('close', () => {
        streams.delete(sseStream)
        sseStream.unpipe(res)
    })
})

// One connection for publishing, and one for all subscriptions, as the package's docs have it.
const publisher = redis.createClient({ url: process.env.BENCHMARK_URL })
const subscriber = publisher.duplicate()
const names = []
const last = new Map()

app.get('/users/:name', async (req, res) => {
    const name = `user.${req.params.name}`
    const sseStream = new SseStream(req)
    const listener = (text) => sseStream.write({ data: JSON.parse(text) })
    await subscriber.subscribe(name, listener)
    sseStream.pipe(res)
    if (!last.has(name)) {
        names.push(name)
        last.set(name, 0)
    }
    res.on('close', () => {
        subscriber.unsubscribe(name, listener)
        sseStream.unpipe(res)
    })
})

control.listen((data) => {
    if (names.length) {
        const name = names[data.n % names.length]
        last.set(name, last.get(name) + 1)
        publisher.publish(name, JSON.stringify(message(last.get(name), clock())))
    }
    for (const sseStream of streams) {
        sseStream.write({ data })
    }
})

const start = async () => {
    if (process.env.BENCHMARK_URL) {
        await Promise.all([publisher.connect(), subscriber.connect()])
    }
    app.listen({ port: control.port, host: '127.0.0.1', backlog: 4096 })
}
start()
