package teedev

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	azure "github.com/cofferproject/coffer/tee/azure/attester"
)

func TestMetadata(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Metadata") != "true":
			w.WriteHeader(http.StatusBadRequest)
		case r.URL.Path == "/redirect":
			http.Redirect(w, r, "/", http.StatusFound)
		default:
			_, _ = w.Write([]byte("certificates"))
		}
	}))
	defer s.Close()
	header := map[string]string{"Metadata": "true"}
	m := newMetadata()
	if b, err := m.Do(context.Background(), &azure.Request{Method: "GET", URL: s.URL, Header: header, Limit: 12}); err != nil || string(b) != "certificates" {
		t.Errorf("%q, %v", b, err)
	}
	for name, r := range map[string]*azure.Request{
		"too long": {Method: "GET", URL: s.URL, Header: header, Limit: 11},
		"redirect": {Method: "GET", URL: s.URL + "/redirect", Header: header, Limit: 100},
		"status":   {Method: "GET", URL: s.URL, Limit: 100},
	} {
		if _, err := m.Do(context.Background(), r); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
