SELECT ci_admit(@runs::bigint[])
