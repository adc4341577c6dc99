// As server.py.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func answer(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	parts := strings.Split(r.URL.Path, "/")
	io.Copy(io.Discard, r.Body)
	status, _ := strconv.Atoi(parts[2])
	size, _ := strconv.Atoi(parts[3])
	empty := status == 204 || status == 304
	if !empty && parts[4] == "l" {
		w.Header().Set("Content-Length", parts[3])
	}
	w.WriteHeader(status)
	if !empty && r.Method != "HEAD" {
		if parts[4] == "c" {
			w.(http.Flusher).Flush()
		}
		w.Write(make([]byte, size))
	}
	parent := r.Header.Get("Traceparent")
	if parent == "" {
		parent = "-"
	}
	fmt.Println(r.Method, status, r.URL.Path, time.Since(began).Nanoseconds(), parent)
}

func main() {
	http.ListenAndServe("0.0.0.0:"+os.Args[1], http.HandlerFunc(answer))
}
