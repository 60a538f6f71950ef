// The second port: `publish COUNT` publishes so many messages, without an HTTP request.

const net = require('node:net')
const readline = require('node:readline')

exports.port = Number(process.env.BENCHMARK_PORT)

exports.listen = (publish) => {
    let number = 0
    const server = net.createServer((socket) => {
        readline.createInterface(socket).on('line', (line) => {
            const count = Number(line.split(' ')[1])
            for (let i = 0; i < count; i++) {
                publish({ n: ++number, text: process.env.BENCHMARK_TEXT })
            }
        })
        socket.on('error', () => {})
    })
    server.listen(Number(process.env.BENCHMARK_CONTROL), '127.0.0.1')
}
