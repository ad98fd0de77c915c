# Rscript mclust.R FOLDER DATA PROBLEMS: what experiments/mclust.py asks of R.
# DATA is an R expression for a table of numbers, PROBLEMS forms and K, such as full-2,vev-3. Writes FOLDER/x.csv, the rows,
# and FOLDER/FORM-K.csv for every fit: a line a component with log-likelihood, weight, means and covariance [d, d].
suppressMessages(library(mclust))
items <- data(package = "mclust")$results[, "Item"]
data(list = unique(sub(".*\\((.*)\\)", "\\1", items)), package = "mclust") # "GvHD.pos (GvHD)" is in GvHD
asked <- commandArgs(trailingOnly = TRUE)
folder <- asked[1]
x <- as.matrix(eval(parse(text = asked[2])))
d <- ncol(x)
put <- function(numbers, name) {
  text <- matrix(sprintf("%.17g", numbers), nrow(numbers)) # write.table keeps 15 digits
  write.table(text, file.path(folder, name), sep = ",", quote = FALSE, row.names = FALSE, col.names = FALSE)
}
put(x, "x.csv")
several <- c(full = "VVV", tied = "EEE", diag = "VVI", spherical = "VII")
one <- c(full = "V", tied = "E", diag = "V", spherical = "V")
for (problem in strsplit(asked[3], ",")[[1]]) {
  form <- sub("-.*", "", problem)
  k <- as.integer(sub(".*-", "", problem))
  set.seed(0) # of more than 2,000 rows mclust takes a random part for its start
  known <- if (d == 1) one else several
  model <- if (form %in% names(known)) known[[form]] else toupper(form)
  fit <- tryCatch(
    suppressWarnings(Mclust(x, G = k, modelNames = model, verbose = FALSE)),
    error = function(e) NULL
  )
  if (is.null(fit) || anyNA(fit$parameters, recursive = TRUE)) next
  found <- fit$parameters
  weights <- if (k == 1) 1 else found$pro
  sigma <- if (d == 1) rep_len(found$variance$sigmasq, k) else found$variance$sigma
  means <- matrix(found$mean, d, k)
  put(cbind(fit$loglik, weights, t(means), t(matrix(sigma, d * d, k))), paste0(problem, ".csv"))
}
