package e2e_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// browse opens a page in a tab of a headless Chromium of the test's own, and marks it, so that a reload would show.
func browse(t *testing.T, s *system, url string) (tab context.Context) {
	t.Helper()
	var program string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		t.Fatal("there is no chromium in PATH to look at the page with; on Debian: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.UserDataDir(s.file("chromium")))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium's sandbox refuses root
	}
	life, end := context.WithTimeout(context.Background(), time.Minute) // of the browser
	browser, endBrowser := chromedp.NewExecAllocator(life, options...)
	tab, endTab := chromedp.NewContext(browser, chromedp.WithErrorf(t.Logf))
	t.Cleanup(func() {
		if err := chromedp.Cancel(tab); err != nil { // in order; the others see to what is left
			t.Logf("close the browser: %v", err)
		}
		endTab()
		endBrowser()
		end()
	})
	if err := chromedp.Do(tab, chromedp.Navigate(url)); err != nil {
		t.Fatalf("open %s: %v", url, err)
	}
	evaluate[bool](t, tab, "window.openedOnce = true")
	return tab
}

// notReloaded wants the tab to show the page that browse opened.
func notReloaded(t *testing.T, tab context.Context) {
	t.Helper()
	if !evaluate[bool](t, tab, "window.openedOnce === true") {
		t.Error("the page was loaded anew")
	}
}

func evaluate[T any](t *testing.T, tab context.Context, expression string) T {
	t.Helper()
	value, err := chromedp.Run(tab, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("evaluate %s on the page: %v", expression, err)
	}
	return value
}

// visible is what a reader of the page sees.
func visible(t *testing.T, tab context.Context) string {
	t.Helper()
	return evaluate[string](t, tab, "document.body.innerText")
}

// shows waits until a reader of the page sees all these words.
func shows(t *testing.T, tab context.Context, words ...string) {
	t.Helper()
	var text string
	defer func() {
		if t.Failed() {
			t.Logf("the page shows:\n%s", text)
		}
	}()
	eventually(t, 20*time.Second, "the page shows "+strings.Join(words, ", "), func() bool {
		seen, err := chromedp.Run(tab, chromedp.Evaluate[string]("document.body.innerText"))
		if err != nil { // between two pages
			return false
		}
		text = seen
		for _, word := range words {
			if !strings.Contains(text, word) {
				return false
			}
		}
		return true
	})
}

func TestThePageFollowsARunWithoutReloading(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.more["api-gateway"] = []string{"ANONYMOUS_READ=true"}
	s.start()
	repo := s.repository("octo/live", workflow(`
name: ci
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - name: Prepare
        run: echo "prepared everything"
      - name: Test
        run: |
          echo "the test begins"
          until [ -e `+s.file("go")+` ]; do sleep 0.05; done
          printf '\033[31m--- FAIL: TestParrot\033[0m <b>it is dead</b>\n'
          exit 1
  deploy:
    needs: test
    runs-on: ubuntu-latest
    steps:
      - run: echo deployed
`))
	id := s.push(repo)
	tab := browse(t, s, "http://"+s.addr+"/run/"+id)
	shows(t, tab, "ci / test", "ci / deploy", "running", "Prepare", "the test begins")
	if strings.Contains(visible(t, tab), "FAIL: TestParrot") {
		t.Fatal("the page shows what has not happened yet")
	}
	s.create("go")
	shows(t, tab, "--- FAIL: TestParrot", "<b>it is dead</b>", "failure", "skipped")
	s.finish(id, "failure")
	notReloaded(t, tab)
}

func TestTheFirstPageShowsRunsAsTheyCome(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.more["api-gateway"] = []string{"ANONYMOUS_READ=true"}
	s.start()
	tab := browse(t, s, "http://"+s.addr+"/")
	repo := s.repository("octo/arrives", workflow(oneJob))
	id := s.push(repo)
	shows(t, tab, "octo/arrives", "success")
	s.finish(id, "success")
	notReloaded(t, tab)
}

func TestWhoSignsInSeesARunGoOn(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.start()
	repo := s.repository("octo/private", workflow(`
name: ci
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    steps:
      - name: Test
        run: |
          echo "the test begins"
          until [ -e `+s.file("go")+` ]; do sleep 0.05; done
          echo "nobody else sees this"
          exit 1
`))
	id := s.push(repo)
	tab := browse(t, s, "http://"+s.addr+"/run/"+id)
	shows(t, tab, "Sign in", "Token")
	signIn := func(secret string) {
		t.Helper()
		if err := chromedp.Do(tab, chromedp.SendKeys("#token", secret+"\r")); err != nil {
			t.Fatalf("fill in the form: %v", err)
		}
	}
	signIn("another-token-of-the-tests")
	shows(t, tab, "the token is wrong")
	signIn(adminToken)
	shows(t, tab, "Signed in as admin", "ci / test", "the test begins")
	s.create("go")
	shows(t, tab, "nobody else sees this", "failure")
	s.finish(id, "failure")
	if got := evaluate[string](t, tab, "document.cookie"); got != "" {
		t.Errorf("scripts see the cookie %q", got)
	}
	status, err := chromedp.Run(tab, chromedp.Evaluate[int](`fetch("/api/v1/runs/`+id+`/rerun", {method: "POST"}).then((answer) => answer.status)`, chromedp.EvalAwaitPromise))
	if err != nil || status != 201 {
		t.Errorf("a page of ours writes: %d, %v", status, err)
	}
	if err := chromedp.Do(tab, chromedp.Click("form.account button")); err != nil {
		t.Fatalf("sign out: %v", err)
	}
	shows(t, tab, "Sign in", "Token")
	if err := chromedp.Do(tab, chromedp.Navigate("http://"+s.addr+"/queue")); err != nil {
		t.Fatal(err)
	}
	shows(t, tab, "Sign in", "Token")
}
