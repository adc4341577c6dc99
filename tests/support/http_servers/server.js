// As server.py.
const http = require('http');

http.createServer((request, response) => {
  const began = process.hrtime.bigint();
  const [, , status, size, kind] = request.url.split('/');
  request.resume();
  request.on('end', () => {
    const empty = status === '204' || status === '304';
    if (!empty && kind === 'l') response.setHeader('Content-Length', size);
    response.writeHead(Number(status));
    response.on('finish', () => {
      const took = process.hrtime.bigint() - began;
      process.stdout.write([request.method, status, request.url, took, request.headers.traceparent || '-'].join(' ') + '\n');
    });
    if (empty || request.method === 'HEAD') return response.end();
    response.flushHeaders();
    response.end(Buffer.alloc(Number(size), 'x'));
  });
}).listen(Number(process.argv[2]), '0.0.0.0');
