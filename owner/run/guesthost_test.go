package run

import "testing"

func TestForGuest(t *testing.T) {
	for in, want := range map[string]string{
		"https://127.0.0.1:8443/ns/sim":   "https://10.0.2.2:8443/ns/sim",
		"https://localhost:1":             "https://10.0.2.2:1",
		"https://[::1]:8443":              "https://10.0.2.2:8443",
		"https://trustee.example/ns/prod": "https://trustee.example/ns/prod",
	} {
		got, err := forGuest(in)
		if err != nil || got != want {
			t.Errorf("forGuest(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestGuestLocation(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:5000/library/nginx": "10.0.2.2:5000/library/nginx",
		"localhost:5000":               "10.0.2.2:5000",
		"[::1]:5000/x":                 "10.0.2.2:5000/x",
		"registry.example/a":           "registry.example/a",
		"127.0.0.1.example.org/a":      "127.0.0.1.example.org/a",
	} {
		if got := guestLocation(in); got != want {
			t.Errorf("guestLocation(%q) = %q, want %q", in, got, want)
		}
	}
}
