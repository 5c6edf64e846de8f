package gateway_test

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every route takes a body of bounded size: whatever is sent to it, nothing above its limit is read, and the answer says so.
func TestEveryRouteBoundsItsBody(t *testing.T) {
	t.Parallel()
	s := start(t)
	before := s.rows()
	source, err := os.ReadFile("gateway.go")
	if err != nil {
		t.Fatal(err)
	}
	routes := regexp.MustCompile(`mux\.Handle\("([A-Z]+) (/[^"]*)"`).FindAllStringSubmatch(string(source), -1)
	if len(routes) < 25 {
		t.Fatalf("routes are declared in another way: only %d found", len(routes))
	}
	large := strings.Repeat(" ", 300<<10)
	for _, route := range routes {
		method, path := route[1], regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(route[2], "1")
		if strings.HasPrefix(path, "/webhooks/") {
			continue // TestBadDeliveriesAreRefusedAndLeaveNothing
		}
		kind := "application/json"
		switch path {
		case "/login":
			kind = "application/x-www-form-urlencoded"
		case "/logout":
			continue // it reads no body
		}
		a := s.send(method, path, large, "Content-Type", kind, "Sec-Fetch-Site", "same-origin")
		want := http.StatusRequestEntityTooLarge
		if method == http.MethodGet {
			want = http.StatusBadRequest
		}
		if a.status != want {
			t.Errorf("%s %s with 300 KiB: %d %.200s, want %d", method, path, a.status, a.body, want)
		}
	}
	s.unharmed(before)
}

// The tables of this package alone hold the 300 inputs that are asked for; webhooks, GraphQL, sockets, HTTP's frames and settings have
// their own.
func TestTheTablesOfHostileInputAreLong(t *testing.T) {
	t.Parallel()
	if n := len(hostileBodies()) + len(hostileTargets()) + len(hostileCalls()) + len(hostileAdministration()); n < 300 {
		t.Errorf("only %d", n)
	} else {
		t.Logf("%d", n)
	}
}
