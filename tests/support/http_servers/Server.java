// As server.py.
import com.sun.net.httpserver.HttpServer;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

class Server {
    public static void main(String[] arguments) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress("0.0.0.0", Integer.parseInt(arguments[0])), 64);
        server.createContext("/", exchange -> {
            long began = System.nanoTime();
            String path = exchange.getRequestURI().getPath();
            String method = exchange.getRequestMethod();
            String[] parts = path.split("/");
            int status = Integer.parseInt(parts[2]);
            int size = Integer.parseInt(parts[3]);
            exchange.getRequestBody().readAllBytes();
            boolean empty = status == 204 || status == 304;
            if (empty) {
                exchange.sendResponseHeaders(status, -1);
            } else if (method.equals("HEAD")) {
                exchange.getResponseHeaders().set("Content-Length", parts[3]);
                exchange.sendResponseHeaders(status, -1);
            } else {
                exchange.sendResponseHeaders(status, parts[4].equals("c") ? 0 : size > 0 ? size : -1);
                if (parts[4].equals("c") || size > 0) {
                    try (OutputStream body = exchange.getResponseBody()) {
                        body.write(new byte[size]);
                    }
                }
            }
            exchange.close();
            String parent = exchange.getRequestHeaders().getFirst("Traceparent");
            System.out.println(method + " " + status + " " + path + " " + (System.nanoTime() - began) + " "
                + (parent == null ? "-" : parent));
        });
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.start();
    }
}
