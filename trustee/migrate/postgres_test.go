package migrate

import (
	"maps"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/cofferproject/coffer/trustee/store/postgres/pgtest"
)

// A database as the existing services' charts make it: one table for each store, but
// for that of the provisioner.
func TestPostgreSQL(t *testing.T) {
	db := pgtest.Start(t)
	url := db.Database("old")
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := c.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range stores {
		if s != storeProvisioner {
			exec("CREATE TABLE " + s + " (key TEXT PRIMARY KEY, value BYTEA)")
		}
	}
	src, err := PostgreSQL(url)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Run(t.Context(), src, newShop(), Options{Now: now}); err == nil {
		t.Errorf("empty tables: %+v", r)
	}
	for k, v := range kept() {
		store, key, _ := strings.Cut(k, ":")
		if store != "somebody-else" && !strings.HasPrefix(key, "list/") {
			exec("INSERT INTO "+store+" VALUES ($1, $2)", key, []byte(v))
		}
	}
	exec("INSERT INTO repository VALUES ('no/value/x', NULL)")
	want := map[string]Action{
		"repository/one/two/three": Import, "repository/binary/one/x": Import, "repository/empty/one/x": Import, "repository/big/one/x": Refuse, "repository/no/value/x": Refuse,
		"attestation_service_policy/default_cpu.rego": Import, "reference_value/svn": Import, "kbs/resource-policy.rego": Skip, "kbs_protocol_session/0123456789abcdef": Skip,
	}
	s := newShop()
	for _, dry := range []bool{true, false} {
		r, err := Run(t.Context(), src, s, Options{DryRun: dry, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		if got := actions(r); !maps.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if dry && len(s.secrets)+len(s.policies)+len(s.bundles) > 0 {
			t.Error("a dry run changed something")
		}
	}
	if s.secrets["one/two/three"] != "hunter2" || s.secrets["binary/one/x"] != "\r\n$3\r\n\x00\xff" || s.policies["default_cpu"] != rego || len(s.bundles) != 1 {
		t.Errorf("%q", s.secrets)
	}
	// Nothing of the source was changed, and nothing can be by this way.
	var n int
	if err := c.QueryRow(t.Context(), "SELECT count(*) FROM repository").Scan(&n); err != nil || n != 5 {
		t.Errorf("%d rows, %v", n, err)
	}
	exec("ALTER TABLE reference_value ALTER value TYPE text USING encode(value, 'base64')")
	if r, err := Run(t.Context(), src, newShop(), Options{Now: now}); err == nil || !strings.Contains(err.Error(), "reference_value") {
		t.Errorf("a table of another form: %+v %v", r, err)
	}
	db.Kill()
	s = newShop()
	if r, err := Run(t.Context(), src, s, Options{Now: now}); err == nil || len(s.secrets) > 0 {
		t.Errorf("no database: %+v", r)
	}
}

func TestPostgreSQLRefused(t *testing.T) {
	for _, bad := range []string{"postgres://u:p@localhost/db", "host=localhost password=p", "postgres://u@db.example/x", "postgres://u@db.example/x?sslmode=require", "postgres://%zz"} {
		if _, err := PostgreSQL(bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	if _, err := PostgreSQL("postgres://u@localhost/x"); err != nil {
		t.Error(err)
	}
}
