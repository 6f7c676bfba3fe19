// Command httpecho stands in for hashicorp/http-echo:1.0: it answers every
// request with the text of -text or $ECHO_TEXT. It ends cleanly on SIGTERM.
//
// Trust zone: a workload of the tests.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", ":5678", "address to listen on")
	text := flag.String("text", os.Getenv("ECHO_TEXT"), "text to answer with")
	status := flag.Int("status-code", http.StatusOK, "status to answer with")
	flag.Parse()
	if *text == "" {
		log.Fatal("missing -text")
	}
	srv := &http.Server{
		Addr:              *listen,
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(*status)
			_, _ = fmt.Fprintln(w, *text)
		}),
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	context.AfterFunc(ctx, func() { _ = srv.Shutdown(context.Background()) })
	log.Printf("server is listening on %s", *listen)
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Print(err)
		os.Exit(1)
	}
}
