// Command helloapp stands in for gcr.io/google-samples/hello-app:2.0: it
// answers every request on $PORT (8080) with a greeting, its version and the
// host's name.
//
// Trust zone: a workload of the tests.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "Hello, world!\nVersion: 2.0.0\nHostname: %s\n", host)
	})
	log.Printf("Server listening on port %s", port)
	srv := &http.Server{Addr: ":" + port, ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(srv.ListenAndServe())
}
