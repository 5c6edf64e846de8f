package patient_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-ci/lockstep/services/api-gateway/internal/patient"
)

func TestAnswerMayTakeLongerThanTheRequest(t *testing.T) {
	t.Parallel()
	const short = 50 * time.Millisecond
	handler := patient.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			t.Errorf("read the body: %v", err)
		}
		for range 3 {
			select {
			case <-r.Context().Done():
				return
			case <-time.After(2 * short):
			}
			fmt.Fprintln(w, "piece")
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Errorf("flush: %v", err)
			}
		}
	}))
	for _, two := range []bool{false, true} {
		server := httptest.NewUnstartedServer(handler)
		server.Config.ReadTimeout, server.Config.WriteTimeout = short, short
		var protocols http.Protocols
		protocols.SetHTTP1(!two)
		protocols.SetUnencryptedHTTP2(two)
		server.Config.Protocols = &protocols
		server.Start()
		t.Cleanup(server.Close)
		client := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
		t.Cleanup(client.CloseIdleConnections)
		for _, body := range []io.Reader{nil, strings.NewReader("body"), io.MultiReader(strings.NewReader("chunked"))} {
			method := http.MethodPost
			if body == nil {
				method = http.MethodGet
			}
			request, err := http.NewRequestWithContext(t.Context(), method, server.URL, body)
			if err != nil {
				t.Fatal(err)
			}
			response, err := client.Do(request)
			if err != nil {
				t.Errorf("HTTP/2 %t, body %v: %v", two, body, err)
				continue
			}
			lines := bufio.NewScanner(response.Body)
			n := 0
			for lines.Scan() {
				n++
			}
			if _ = response.Body.Close(); n != 3 || lines.Err() != nil {
				t.Errorf("%s, body %v: %d pieces of 3, error %v", response.Proto, body, n, lines.Err())
			}
		}
	}
}
