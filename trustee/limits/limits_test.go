package limits

import (
	"errors"
	"strings"
	"testing"
)

func TestSet(t *testing.T) {
	s := Defaults()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	if err := s.Change("seals=3"); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(Seals, "lab", 3); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	err := s.Check(Seals, "lab", 4)
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, Err) || e.Name != Seals || e.Most != 3 || !strings.Contains(err.Error(), "namespace lab") {
		t.Errorf("above the limit: %v", err)
	}
	for _, bad := range []string{"", "seals", "seals=", "seals=0", "seals=-1", "seals=many", "sails=1", "=1"} {
		if err := s.Change(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
	if s[Seals] != 3 || Defaults()[Seals] == 3 {
		t.Errorf("%d; a refused change, or one set that changed another", s[Seals])
	}
	delete(s, Roots)
	if err := s.Validate(); err == nil {
		t.Error("a set without a limit of roots")
	}
	s = Defaults()
	s["x"] = 1
	if err := s.Validate(); err == nil {
		t.Error("a limit that nothing has")
	}
}
