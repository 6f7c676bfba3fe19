package server

import (
	"fmt"

	"github.com/cofferproject/coffer/trustee/fetch"
	"github.com/cofferproject/coffer/trustee/record"
)

// openFetcher makes what gets collateral from vendors in the background, of what
// verifiers missed as well.
func (s *Server) openFetcher(book *record.Book) (err error) {
	s.fetcher, err = fetch.New(fetch.Config{
		Options: s.cfg.Fetch, Store: s.store, Shelf: s.shelf, Log: s.cfg.Log, Now: s.cfg.Now, Observe: s.metrics.Fetched,
	})
	if err != nil {
		return err
	}
	book.Notice = s.fetcher.Missed
	s.metrics.Gauge("collateral_stale", "Documents past their next update, or that cannot be verified.", func() float64 { return float64(s.fetcher.Late()) })
	return nil
}

// collateralNote is the line of /readyz about collateral: what is out of date
// denies those who need it, and nobody else.
func (s *Server) collateralNote() string {
	if n := s.fetcher.Late(); n > 0 {
		return fmt.Sprintf("collateral: %d documents are out of date", n)
	}
	return ""
}
